"""Choose sampler, solver, rounds, window, mode and precision for a target on this device.

Candidates are measured, not modelled: the error of each to the sequential chunk of the policy's own
sampler, on held-out observations, and its time per chunk at batch 1, all candidates taking
turns. Few-step sequential sampling is among them, at even spacings and at searched timesteps, and
wins where it reaches a target faster.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.measure.bench import time_predictions
from pcm_policy.measure.candidates import Candidate, candidate_solvers, reference_sampler
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.rows import settings
from pcm_policy.measure.targets import Target
from pcm_policy.measure.timing import time_call
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import eager
from pcm_policy.runtime.modes import MODES
from pcm_policy.runtime.timing import Progress, no_progress
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

PROBES = 5
"""Timed calls after which a candidate's chance in a further runtime is known well enough."""


def measure(
    policy: DiffusionPolicy,
    observations: Tensor,
    runtimes: Sequence[RuntimeConfig],
    target: Target,
    *,
    samplers: Sequence[SamplerConfig] = (),
    methods: Sequence[str] = (),
    calls: int = 50,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[Candidate]:
    """Measure every candidate in the first runtime, and those that may win in the others.

    An engine takes seconds to prepare one solver. The policy's own runtime is left as it was.
    """
    obs = observations.to(policy.device, policy.dtype)
    frames: NDArray[np.float32] = observations.float().cpu().numpy()
    solvers, reference = candidate_solvers(policy, samplers, methods), reference_sampler(policy)
    noise = paired_noise(policy, solvers[0], len(obs), seed)
    policy.calibrate(obs, reference, seed + 1_000_000)
    kept, found, first = policy.execute, list[Candidate](), list[Candidate]()
    exact = policy.solve(obs, solvers[0], noise, execute=eager).sample
    try:
        for runtime in runtimes:
            policy.use(Runtime(policy, runtime))
            if first:
                tried = _hopeful(policy, runtime, target, first, found, frames[0], progress)
            else:
                tried = [s for s in solvers if _runs(policy, s, frames[0], runtime)]
            times = time_predictions(policy, tried, frames, calls, progress)
            alone = MODES.find(runtime.mode).prepares  # what is prepared now is for batch 1
            batches = [(obs[i : i + 1], noise.row(i)) for i in range(len(obs))]
            for solver, spent in zip(tried, times, strict=True):
                solves = [
                    policy.solve(rows, solver, drawn)
                    for rows, drawn in (batches if alone else [(obs, noise)])
                ]
                off = torch.cat([one.sample for one in solves]) - exact
                rmse = float(off.square().mean(dim=(1, 2)).sqrt().mean())
                rounds = max(one.rounds for one in solves)
                found.append(Candidate(solver, runtime, rmse, rounds, solves[0].nfe, spent))
            first = first or list(found)
    finally:
        policy.use(kept)
    if not found:
        raise PcmError("no solver runs in these modes: add eager to modes")
    return found


def _hopeful(
    policy: DiffusionPolicy,
    runtime: RuntimeConfig,
    target: Target,
    first: Sequence[Candidate],
    found: Sequence[Candidate],
    frame: NDArray[np.float32],
    progress: Progress,
) -> list[Solver]:
    """Return the solvers that may win in this runtime, by a few timed calls of each."""
    known, tried = list(found), []
    for one in progress(sorted(first, key=target.rank), f"{runtime.mode}, preparing"):
        if target.hopeful(one, known) and _runs(policy, one.solver, frame, runtime):

            def call(_: int, solver: Solver = one.solver) -> None:
                policy.predict(frame, solver=solver)

            times = time_call(call, PROBES, policy.device)
            known.append(replace(one, runtime=runtime, times_ms=times))
            tried.append(one.solver)
    return tried


def _runs(
    policy: DiffusionPolicy, solver: Solver, frame: NDArray[np.float32], runtime: RuntimeConfig
) -> bool:
    """Whether a runtime executes a solver; one that it refuses is left out, with a message.

    Rounds that are far from their end enlarge rounding, so that an engine may be refused for them.
    """
    try:
        policy.predict(frame, solver=solver)
    except PcmError as error:
        if runtime.mode == "eager":
            raise
        logging.getLogger(__name__).warning("%s is left out: %s", solver.label, error)
        return False
    return True


def call_costs(policy: DiffusionPolicy, most: int, calls: int = 30) -> dict[str, float]:
    """Return the median milliseconds of one network call at batch 1, 2, 4 ... ``most``."""
    config, device = policy.config, policy.device
    sizes = sorted({min(2**i, most) for i in range(most.bit_length() + 1)})
    result = {}
    with torch.inference_mode():
        for size in sizes:
            x = torch.zeros(size, *config.chunk_shape, device=device)
            t = torch.zeros(size, dtype=torch.int64, device=device)
            cond = torch.zeros(size, config.network_cond_dim, device=device)

            def call(_: int, x: Tensor = x, t: Tensor = t, cond: Tensor = cond) -> None:
                policy.network(x.to(policy.dtype), t, cond.to(policy.dtype))

            result[str(size)] = time_call(call, calls, device)["p50"]
    return result


def report(
    policy: DiffusionPolicy,
    candidates: Sequence[Candidate],
    best: Candidate,
    why: str,
    target: Target,
) -> dict[str, Any]:
    """Return plain data for JSON."""
    return conditions(policy) | {
        "target": {target.name: target.wanted},
        "chosen": best.label,
        "why": why,
        "solver": settings(best.solver),
        "runtime": asdict(best.runtime),
        "call_ms_by_batch": call_costs(policy, reference_sampler(policy).steps),
        "candidates": [
            {
                "solver": c.label,
                "settings": settings(c.solver),
                "runtime": asdict(c.runtime),
                "rmse": c.rmse,
                "rounds": c.rounds,
                "nfe": c.nfe,
                "score_difference": c.score_difference,
                **{f"{k}_ms": v for k, v in c.times_ms.items()},
            }
            for c in sorted(candidates, key=lambda c: c.times_ms["p50"])
        ],
    }
