"""The peers on the base's own weights as rows of the study: fitted, searched and chosen.

All numbers come from observations and episodes that no reported one has a part in.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.peers.fitting import fitted
from benchmarks.peers.warm import searched_levels
from benchmarks.study.rows import play
from benchmarks.study.search import TUNING_SEED
from pcm_policy.files import to_json, write_text
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver, flat

PEERS = {"EPD": (1, 2, 3, 4), "STEP": (1, 2)}
"""Network calls, one after another, that a peer is tried at."""
POINTS = (2, 3, 4)
WARMER = 0.6
"""Temperature that is tried beside the base's own, for DDIM's chunk without noise."""
PLAYED = 3
"""Candidates of least RMSE that play the tuning episodes."""

Tried = dict[str, tuple[Solver, float]]
"""Solvers by name, with the RMSE on the observations that they were fitted to."""


def families(policy: DiffusionPolicy) -> list[str]:
    """Return the peers that a policy allows."""
    starts = policy.head is not None and policy.head.starts
    fits = {"EPD": not policy.config.schedule.is_flow, "STEP": starts}
    return [family for family in PEERS if fits[family]]


def best_peer(
    policy: DiffusionPolicy,
    family: str,
    calls: int,
    obs: Tensor,
    episodes: int,
    kept: Path,
    fit_steps: int,
) -> tuple[Solver, dict[str, Any]]:
    """Choose a peer's solver by the mean of score and success on episodes from ``TUNING_SEED``.

    Args:
        policy: with a head.
        family: one of ``PEERS``.
        calls: network calls, one after another.
        obs: ``(n, To, Do)`` raw observations to fit to.
        episodes: that candidates play.
        kept: folder of finished rows and fits.
        fit_steps: of a fit.

    Returns:
        The solver, and every candidate's RMSE and, if it played, that mean.
    """
    make = epd_candidates if family == "EPD" else warm_candidates
    tried = make(policy, calls, obs, kept, fit_steps)
    least = sorted(tried, key=lambda name: tried[name][1])
    names = [name for name in least if "at" not in name.split()][:PLAYED]
    names += [name for name in least if "at" in name.split()]
    found = {}
    for name in names:
        played = play(policy, tried[name][0], episodes, TUNING_SEED, kept)
        found[name] = float(np.mean([*played.scores, *played.successes]))
    best = max(found, key=lambda name: found[name])
    record = {
        name: {"solver": flat(solver), "rmse": error, "outcome": found.get(name)}
        for name, (solver, error) in tried.items()
    }
    return tried[best][0], {"chosen": best, "candidates": record}


def epd_candidates(
    policy: DiffusionPolicy, calls: int, obs: Tensor, kept: Path, fit_steps: int
) -> Tried:
    """Fit EPD-Solvers: each number of points, the mean over noise too, and a warmer one."""
    assert policy.config.head is not None
    own = policy.config.head.sampler
    warmer = SamplerConfig("ddim", own.steps, temperature=WARMER)

    def fit(wanted: SamplerConfig, points: int, *, clean: bool) -> tuple[Solver, float]:
        what = {"wanted": wanted.label, "calls": calls, "points": points, "clean": clean}
        make = lambda: fitted(  # noqa: E731
            policy, wanted, obs, calls, points, clean=clean, steps=fit_steps, seed=TUNING_SEED
        )
        return remembered(policy, what | {"steps": fit_steps, "rows": len(obs)}, kept, make)

    found: Tried = {f"K {points}": fit(own, points, clean=True) for points in POINTS}
    best = min(POINTS, key=lambda points: found[f"K {points}"][1])
    found[f"K {best} of noise"] = fit(own, best, clean=False)
    if own.temperature != WARMER:
        found[f"K {best} at {WARMER:g}"] = fit(warmer, best, clean=True)
    return found


def warm_candidates(
    policy: DiffusionPolicy, calls: int, obs: Tensor, kept: Path, fit_steps: int
) -> Tried:
    """Search the levels of STEP at every temperature, with and without noise between steps."""
    return {
        f"{solver.step.share:g}, eta {solver.step.fresh:g}": (solver, error)  # type: ignore[attr-defined]
        for solver, error in searched_levels(policy, obs, calls, TUNING_SEED)
    }


def remembered(
    policy: DiffusionPolicy,
    what: dict[str, Any],
    kept: Path,
    make: Callable[[], tuple[Solver, float]],
) -> tuple[Solver, float]:
    """Return what a fit gave, from its file if it was made before."""
    what = {"weights": fingerprint(policy.network), **what}
    name = hashlib.sha256(to_json(what).encode()).hexdigest()[:16]
    file = kept.parent / "fits" / f"{name}.json"
    if not file.exists():
        solver, error = make()
        write_text(file, to_json(what | {"solver": flat(solver), "rmse": error}))
    read = json.loads(file.read_text())
    return policy.solver(read["solver"]), read["rmse"]
