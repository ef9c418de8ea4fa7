"""The study's rows: which solvers, how far from the base chunk, how they score."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcm_policy.files import to_json, write_text
from pcm_policy.limits import ActionLimits
from pcm_policy.measure.exactness import certification, certified_solver, paired_noise
from pcm_policy.measure.statistics import (
    bootstrap_mean_interval,
    paired_difference_interval,
    wilson_interval,
)
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.rollout.evaluate import evaluate
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.solvers.loop import rounds
from pcm_policy.solvers.registry import Solver, flat

PARALLEL = {
    "PCM": "pcm",
    "Picard": "picard",
    "Coarse": "coarse",
    "Anderson": "anderson",
    "Newton": "newton",
    "ParaDiGMS": "paradigms",
}
TRAINED = {"consistency": "consistency", "high-noise": "ddim", "drifting": "ddim"}
"""Models that start from the base's weights, and how each is sampled."""
FEW_STEPS = {"DDIM": "ddim", "DPM-Solver++": "dpmpp_2m", **TRAINED}
ONE_CALL = "drifting"
"""One of them that is sampled in one step alone."""
PEERS_OF_ONE = ("EPD 1", "EPD 2", "STEP 1", "high-noise 1", "drifting 1")
PEERS_OF_TWO = ("EPD 2", "EPD 3", "EPD 4", "STEP 2", "high-noise 2")
SETTLING = "PCM mean"
"""PCM that stops when it settles, at a level that takes so many rounds on average."""
MOST = 40
"""Rounds up to which errors are followed."""
ALONE = 128
"""Observations that are solved until certified, one by one."""


@dataclass(frozen=True)
class Row:
    """One line of the table: ``rounds`` network rounds, or so many on average, of a family."""

    family: str
    rounds: float
    solver: Solver

    @property
    def name(self) -> str:
        """Name in tables."""
        return f"{self.family} {self.rounds:g}"


@dataclass(frozen=True)
class Played:
    """Outcomes of the same episodes, in the order of their seeds, and mean rounds of a plan."""

    scores: list[float]
    successes: list[float]
    rounds: float | None = None


def calls(family: str, rounds: Sequence[int]) -> list[int]:
    """Return in how many of the asked calls a few-step family is sampled."""
    return [r for r in rounds if r == 1 or family != ONE_CALL]


def parallel_solver(policy: DiffusionPolicy, family: str, rounds: int) -> Solver:
    """Return ``rounds`` rounds on the head's sampler; past those of the head, base rounds."""
    if family == "PCM":
        return policy.solver({"method": "pcm", "rounds": rounds})
    assert policy.config.head is not None
    return Solver.of(PARALLEL[family], policy.config.head.sampler, rounds=rounds)


def parallel_families(policy: DiffusionPolicy) -> list[str]:
    """Return the families that the head's sampler allows."""
    assert policy.config.head is not None
    one_step = policy.sampler(policy.config.head.sampler).one_step
    return [family for family in PARALLEL if one_step or family != "ParaDiGMS"]


@torch.inference_mode()
def rmse_by_round(
    policy: DiffusionPolicy, family: str, obs: Tensor, exact: Tensor, seed: int = 0
) -> Tensor:
    """Return ``(rounds, n)`` RMSE to the base chunks after every round up to ``MOST``, normalised.

    Args:
        policy: the policy.
        family: one of ``PARALLEL``.
        obs: ``(n, To, Do)`` raw observations.
        exact: ``(n, T, Da)`` sequential chunks with the same noise.
        seed: of the noise.
    """
    assert policy.config.head is not None
    most = min(MOST, policy.config.head.sampler.steps)
    solver = parallel_solver(policy, family, most)
    noise = paired_noise(policy, solver, len(obs), seed).to(policy.device, policy.dtype)
    given = Inputs(obs.to(policy.device, policy.dtype), noise)
    walk = rounds(*policy.assemble(given, solver), solver.step, solver.stop)
    errors = [(x.X[-1] - exact).square().mean(dim=(1, 2)).sqrt() for _, x, _ in walk]
    return torch.stack(errors).cpu()


def play(
    policy: DiffusionPolicy,
    solver: Solver,
    episodes: int,
    seed: int,
    kept: Path,
    runtime: RuntimeConfig | None = None,
) -> Played:
    """Run the episodes of one row, or read them where they have been run already.

    Args:
        policy: the policy.
        solver: how to solve.
        episodes: number of episodes.
        seed: of the first one.
        kept: folder of finished rows; a row is known by the weights it uses, how many steps are
            executed, solver, episodes and seed.
        runtime: how solves are executed, one observation at a time as on a robot; by default
            eagerly, those of 50 episodes at once.
    """
    what = described_row(policy, solver, episodes, seed, runtime)
    if runtime is not None:
        policy.use(runtime)
    file = row_file(kept, what)
    if not file.exists():
        outcome = run_row(policy, solver, episodes, seed, 50 if runtime is None else 1)
        write_text(file, to_json(what | outcome))
    read = json.loads(file.read_text())
    return Played(read["scores"], read["successes"], read.get("rounds"))


def described_row(
    policy: DiffusionPolicy,
    solver: Solver,
    episodes: int,
    seed: int,
    runtime: RuntimeConfig | None = None,
) -> dict[str, Any]:
    """Return what names a row, as :func:`play` takes it."""
    used = policy if solver.uses_head else policy.network
    what = {"weights": fingerprint(used), "action_steps": policy.config.action_steps}
    what |= {"solver": flat(solver), "episodes": episodes, "seed": seed}
    return what if runtime is None else what | {"runtime": asdict(runtime)}


def row_file(kept: Path, what: Mapping[str, Any]) -> Path:
    """Return where a row is kept."""
    return kept / f"{hashlib.sha256(to_json(what).encode()).hexdigest()[:16]}.json"


def run_row(
    policy: DiffusionPolicy, solver: Solver, episodes: int, seed: int, batch: int = 50
) -> dict[str, Any]:
    """Run the episodes of a row; returns their outcomes.

    Args:
        policy: the policy.
        solver: how to solve.
        episodes: number of episodes.
        seed: of the first one.
        batch: rows of a solve.
    """
    actions = policy.action_normalizer
    policy.limits = ActionLimits(actions.low.cpu().numpy(), actions.high.cpu().numpy())
    runner = EpisodePolicy(policy, solver)
    result = evaluate(
        runner,
        "pcm_policy/PushTKeypoints-v0",
        episodes=episodes,
        seed=seed,
        n_obs_steps=policy.config.obs_steps,
        num_envs=min(50, episodes),
        solve_batch=min(batch, episodes),
    )
    policy.limits = None
    return {
        "scores": result.scores,
        "successes": [float(bool(e.success)) for e in result.episodes],
        "rounds": runner.mean_rounds,
    }


def compare(played: Played, base: Played) -> dict[str, Any]:
    """Return means, 95 % intervals, and paired differences to the base."""
    count, found = len(played.scores), {}
    for name, mine, theirs in (
        ("score", played.scores, base.scores),
        ("success", played.successes, base.successes),
    ):
        interval = (
            bootstrap_mean_interval(mine)
            if name == "score"
            else wilson_interval(int(sum(mine)), count)
        )
        found[name] = {
            "mean": float(np.mean(mine)),
            "ci95": list(interval),
            **difference(mine, theirs),
        }
    return found


def difference(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Return the mean paired difference and its 95 % interval."""
    low, high = paired_difference_interval(first, second)
    return {
        "difference": float(np.mean(first) - np.mean(second)),
        "difference_ci95": [low, high],
    }


def differences(mine: Played, theirs: Played) -> dict[str, Any]:
    """Return the paired differences of score and of success."""
    return {
        "score": difference(mine.scores, theirs.scores),
        "success": difference(mine.successes, theirs.successes),
    }


def pairs(played: Mapping[str, Played]) -> list[dict[str, Any]]:
    """Return paired differences: PCM against few-step sampling of more calls than its rounds."""
    found, four = [], ("DDIM 4", "DPM-Solver++ 4")
    for ours, others in (
        ("PCM 1", ("DDIM 2", "DPM-Solver++ 2", "consistency 1", *four, *PEERS_OF_ONE)),
        ("PCM 2", (*four, "consistency 2", *PEERS_OF_TWO)),
        ("PCM mean 1.5", four),
        ("PCM mean 2", four),
    ):
        for other in (name for name in others if ours in played and name in played):
            gaps = differences(played[ours], played[other])
            found.append({"pair": f"{ours} - {other}", **gaps})
    return found


def certified_rounds(policy: DiffusionPolicy, obs: Tensor) -> list[dict[str, Any]]:
    """Count the rounds until certified at 1e-2, every observation alone, for every solver."""
    assert policy.config.head is not None
    sampler, tolerance = policy.config.head.sampler, 1e-2
    solvers = [certified_solver(policy, tolerance)]
    solvers += [
        Solver.of(name, sampler, tolerance=tolerance) for name in ("picard", "anderson", "newton")
    ]
    alone = obs[torch.linspace(0, len(obs) - 1, min(ALONE, len(obs))).long()]
    return [asdict(certification(policy, solver, alone)) for solver in solvers]
