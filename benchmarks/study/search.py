"""The best few-step sampler: temperature, three spacings and a searched one, on other seeds."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks.study.rows import FEW_STEPS, TRAINED, play
from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import solved
from pcm_policy.measure.few_steps import searched
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import Spacing
from pcm_policy.solvers.registry import Solver

TUNING_SEED = 500_000
TEMPERATURES = (1.0, 0.6)
"""Tried for few-step sampling beside the base's own: few steps may want another one."""


def outcome(policy: DiffusionPolicy, sampler: SamplerConfig, episodes: int, kept: Path) -> float:
    """Return the mean of score and success rate on episodes from ``TUNING_SEED``."""
    played = play(policy, Solver.of("sequential", sampler), episodes, TUNING_SEED, kept)
    return float(np.mean([*played.scores, *played.successes]))


def best_path(policy: DiffusionPolicy, episodes: int, kept: Path) -> SamplerConfig:
    """Return what few-step samplers stand for, at the temperature that does best.

    It is DDIM of as many steps as the base has, without noise.
    """
    assert policy.config.head is not None
    own = policy.config.head.sampler
    shares = dict.fromkeys((own.temperature, *TEMPERATURES))
    paths = [SamplerConfig("ddim", own.steps, temperature=share) for share in shares]
    return max(paths, key=lambda path: outcome(policy, path, episodes, kept))


def candidates(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
    path: SamplerConfig,
) -> dict[str, SamplerConfig]:
    """Return the three spacings that there are and the searched schedule, by name.

    The search minimises the mean RMSE to the chunk of ``path`` (of a trained model, to the
    base's) on ``obs``, which no episode or held-out observation that is reported has a part in.
    A model that was trained with the whole noise is tried with it too. Beside a noisy base, DDIM
    is tried in three more ways: with as much noise at the same timesteps, and as the base's own
    sampler, with its noise and without any, at timesteps searched for the base's own chunk.
    """
    assert base.config.head is not None
    own = base.config.head.sampler
    wanted = own if family in TRAINED else path
    exact = solved(base, Solver.of("sequential", wanted), obs, TUNING_SEED)
    kind = SamplerConfig(FEW_STEPS[family], temperature=wanted.temperature)  # type: ignore[arg-type]
    found: dict[str, SamplerConfig] = {}
    for spacing in get_args(Spacing):
        sampler = replace(kind, steps=steps, spacing=spacing)
        try:
            policy.sampler(sampler)
        except PcmError:  # so many steps of this spacing do not fit
            continue
        found[spacing] = sampler
    kinds = list(found.values())
    found["searched"] = searched(policy, kinds, obs, exact.sample, TUNING_SEED)
    if family in TRAINED and family != "consistency":  # these were trained with all of the noise
        whole = {f"{name} at 1": found[name] for name in ("trailing", "searched")}
        found |= {name: replace(sampler, temperature=1.0) for name, sampler in whole.items()}
    if family == "DDIM" and policy.sampler(own).stochastic:
        noisy = {"eta": own.eta or 1.0, "temperature": own.temperature}
        found |= {f"{name}, noisy": replace(s, **noisy) for name, s in list(found.items())}
        near = solved(base, Solver.of("sequential", own), obs, TUNING_SEED).sample
        for name, share in {"noisy": own.temperature, "without its noise": 0.0}.items():
            given = [replace(s, eta=noisy["eta"], temperature=share) for s in kinds]
            found[f"own, {name}"] = searched(policy, given, obs, near, TUNING_SEED)
    return found


def best_sampler(
    policy: DiffusionPolicy,
    base: DiffusionPolicy,
    family: str,
    steps: int,
    obs: Tensor,
    path: SamplerConfig,
    episodes: int,
    kept: Path,
) -> tuple[SamplerConfig, dict[str, Any]]:
    """Choose a schedule by the mean of score and success on episodes from ``TUNING_SEED``.

    Returns:
        The sampler, and for every candidate its timesteps, temperature and that mean.
    """
    tried = candidates(policy, base, family, steps, obs, path)
    found = {name: outcome(policy, sampler, episodes, kept) for name, sampler in tried.items()}
    best = max(found, key=lambda name: found[name])
    record = {
        name: {
            "timesteps": policy.sampler(sampler).timesteps.tolist(),
            "temperature": sampler.temperature,
            "outcome": found[name],
        }
        for name, sampler in tried.items()
    }
    return tried[best], {"chosen": best, "candidates": record}


def visited_observations(policy: DiffusionPolicy, episodes: int) -> Tensor:
    """Return up to 256 observations that the base visits in episodes from ``TUNING_SEED``."""
    from pcm_policy.rollout.episode_policy import EpisodePolicy
    from pcm_policy.rollout.evaluate import evaluate

    config = policy.config
    sampler = config.sampler if config.head is None else config.head.sampler
    runner = EpisodePolicy(policy, Solver.of("sequential", sampler))
    evaluate(
        runner,
        "pcm_policy/PushTKeypoints-v0",
        episodes=episodes,
        seed=TUNING_SEED,
        n_obs_steps=policy.config.obs_steps,
        num_envs=1,
        solve_batch=1,
    )
    return torch.from_numpy(np.stack(runner.observations()))
