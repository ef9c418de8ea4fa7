"""Honest timing and exactness of every solver on the same weights.

Latency is one prediction at batch 1, device synchronised on both sides, after a warm-up; the
solvers take turns call by call, so that a slow moment of the machine meets all of them. Errors are
against the sequential chunk of the same sampler, same observation, same noise. LeRobot's rows
(:mod:`pcm_policy.measure.lerobot`) take their turns in the same loop.
"""

import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.rounds import Progress, count_rounds
from pcm_policy.measure.statistics import percentiles
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.deadline import synchronize
from pcm_policy.solvers.solve import Method, SolverConfig

Timed = Callable[[int], float]
"""Makes a call by its number and returns its milliseconds."""

WARMUP = 5
FEW_STEPS = (1, 2, 3, 4, 8)
PARALLEL: tuple[Method, ...] = ("paradigms", "picard", "coarse", "anderson", "newton")


def hardware(device: torch.device) -> dict[str, Any]:
    """Return what a timing depends on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next(x.split(":")[1].strip() for x in file if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "mode": "eager",
    }


def time_predictions(
    policy: DiffusionPolicy,
    solvers: Sequence[SolverConfig],
    observations: Sequence[Any] | NDArray[np.float32],
    calls: int,
    progress: Progress = lambda items, _: items,
    others: Sequence[Timed] = (),
) -> list[dict[str, float]]:
    """Time ``predict`` at batch 1 for several solvers that take turns.

    Args:
        policy: the policy.
        solvers: what is timed.
        observations: ``n`` of them, each as ``predict`` takes one, used in turn; or tensors
            ``(To, Do)``, whose images are encoded already: the solve alone is timed then.
        calls: timed calls per solver; a warm-up comes before them and is not counted.
        progress: shows how far it has come.
        others: further sides, which take their turns after the solvers.

    Returns:
        p50, p95, p99 and max in milliseconds, one dictionary a solver and then one a further side.

    Raises:
        PcmError: no call was asked for.
    """
    if calls < 1:
        raise PcmError(f"calls={calls}: at least one timed call is needed")
    spent: list[list[float]] = [[] for _ in (*solvers, *others)]
    for call in progress(range(-WARMUP, calls), "timing"):
        obs = observations[call % len(observations)]
        for times, solver in zip(spent, solvers, strict=False):
            noise = paired_noise(policy, solver, 1, call + WARMUP)
            synchronize(policy.device)
            start = time.perf_counter()
            if isinstance(obs, Tensor):  # encoded already
                policy.solve(obs[None], solver, noise)
            else:
                policy.predict(obs, solver=solver, noise=noise)
            synchronize(policy.device)
            if call >= 0:
                times.append((time.perf_counter() - start) * 1e3)
        for times, other in zip(spent[len(solvers) :], others, strict=True):
            ms = other(call + WARMUP)
            if call >= 0:
                times.append(ms)
    return [percentiles(times) for times in spent]


def time_encoding(
    policy: DiffusionPolicy, observations: Sequence[Any], calls: int
) -> dict[str, float]:
    """Time ``observe`` at batch 1: checks, and images to features.

    Args:
        policy: the policy.
        observations: each as ``predict`` takes one, used in turn.
        calls: timed calls, after a warm-up.

    Returns:
        p50, p95, p99 and max in milliseconds.
    """

    def observe(call: int) -> None:
        synchronize(policy.device)
        policy.observe(observations[call % len(observations)])
        synchronize(policy.device)

    return time_calls(observe, calls)


def time_calls(call: Callable[[int], Any], calls: int) -> dict[str, float]:
    """Time a function of the call's number, after a warm-up: p50, p95, p99, max in milliseconds."""
    times = []
    for number in range(-WARMUP, calls):
        start = time.perf_counter()
        call(number)
        if number >= 0:
            times.append((time.perf_counter() - start) * 1e3)
    return percentiles(times)


def default_rows(
    policy: DiffusionPolicy, error: float, methods: Sequence[str] | None = None
) -> list[tuple[SolverConfig, SamplerConfig]]:
    """Return the solvers that a benchmark compares, each with its reference sampler.

    Args:
        policy: the policy.
        error: tolerance of the adaptive rows.
        methods: rows of these methods alone, beside the sequential ones; None for all.

    Raises:
        PcmError: a method that does not exist.
    """
    unknown = sorted(set(methods or ()) - set(get_args(Method)))
    if unknown:
        raise PcmError(f"methods: {unknown[0]!r} is none of {', '.join(get_args(Method))}")
    own = policy.config.sampler
    every = policy.config.schedule.train_steps
    slow = SamplerConfig("ddpm", every, temperature=own.temperature)
    if policy.config.schedule.is_flow:
        slow = replace(own, steps=every)
    rows = []
    for sampler in (slow, replace(own, steps=32), replace(own, steps=16)):
        rows.append((SolverConfig("sequential", sampler), sampler))
        for method in PARALLEL:
            if method != "paradigms" or policy.sampler(sampler).one_step:
                rows.append((SolverConfig(method, sampler, tolerance=error), sampler))
    head = policy.config.head
    reference = head.sampler if head is not None else rows[-1][1]
    for r in (2, 3, 4):
        rows.append((SolverConfig("picard", reference, rounds=r), reference))
    if head is not None:
        for r in (1, 2, 3):
            rows.append((SolverConfig("pcm", reference, rounds=r), reference))
        rows.append((SolverConfig("pcm", reference, pcm_rounds=2, tolerance=error), reference))
        rows.append((SolverConfig("pcm", reference, adaptive=True, tolerance=error), reference))
    for steps in FEW_STEPS:
        rows.append((SolverConfig("sequential", replace(own, steps=steps)), reference))
    wanted = get_args(Method) if methods is None else ("sequential", *methods)
    return [row for row in rows if row[0].method in wanted]


def run_bench(
    policy: DiffusionPolicy,
    observations: Tensor,
    *,
    observations_used: int = 64,
    calls: int = 100,
    error: float = 1e-3,
    seed: int = 0,
    progress: Progress = lambda items, _: items,
    methods: Sequence[str] | None = None,
    lerobot: str | None = None,
    sights: Sequence[Any] = (),
) -> dict[str, Any]:
    """Compare all solvers on one policy.

    Args:
        policy: the policy, with or without a head.
        observations: ``(n, To, Do)`` raw held-out observations.
        observations_used: how many of them errors and rounds are taken over.
        calls: timed calls per solver.
        error: tolerance of the adaptive rows, and the error whose rounds are counted.
        seed: seed of the noise.
        progress: shows how far it has come.
        methods: rows of these methods alone, beside the sequential ones; None for all.
        lerobot: Python of LeRobot's environment; its own loops on the same weights are rows then.
        sights: of a policy with cameras: observations with images. Encoding them is timed apart
            from the solves.

    Returns:
        Plain data for JSON: ``rows`` (one a solver), ``rounds_to_error`` and ``hardware``.

    Raises:
        PcmError: an unknown method, no call, or LeRobot is not there or its chunks are not ours.
    """
    obs = observations[torch.linspace(0, len(observations) - 1, observations_used).long()]
    obs = obs.to(policy.device, policy.dtype)
    pairs = default_rows(policy, error, methods)
    for sampler in {s.sampler: None for s, _ in pairs if s.method == "newton"}:
        policy.calibrate(observations[:128], sampler, seed + 1_000_000)
    rows, exact = [], {}
    for solver, reference in progress(pairs, "errors"):
        sequential = SolverConfig("sequential", reference)
        noise = paired_noise(policy, sequential, len(obs), seed)
        if reference not in exact:
            exact[reference] = policy.solve(obs, sequential, noise).sample
        found = (
            [policy.solve(obs[i : i + 1], solver, noise.row(i)) for i in range(len(obs))]
            if solver.tolerance is not None or solver.settle is not None
            else [policy.solve(obs, solver, noise)]
        )
        sample = torch.cat([f.sample for f in found])
        off = (sample - exact[reference]).abs()
        rounds = [f.rounds for f in found]
        rows.append(
            {
                "package": "pcm_policy",
                "solver": solver.label,
                "reference": f"{reference.name}-{reference.steps}",
                "rounds": float(np.mean(rounds)),
                "worst_rounds": max(rounds),
                "nfe": float(np.mean([f.nfe for f in found])),
                "max_abs_error": float(off.max()),
                "mean_abs_error": float(off.mean()),
                "rmse": float(off.square().mean(dim=(1, 2)).sqrt().mean()),
            }
        )
    solvers = [s for s, _ in pairs]
    frames = obs.float().cpu().numpy() if policy.vision is None else list(obs)
    slowest_first = pairs[0][0].label
    with ExitStack() as stack:
        left_out: list[str] = []
        others: list[Timed] = []
        if lerobot is not None:
            from pcm_policy.measure.lerobot import open_peers, peer_row

            samplers = list(dict.fromkeys(reference for _, reference in pairs))
            peers, left_out = open_peers(lerobot, policy, samplers, obs, stack)
            rows += map(peer_row, peers)
            others = [peer.time for peer in peers]
        timed = time_predictions(policy, solvers, frames, calls, progress, others)
    p50 = {(row["package"], row["solver"]): t["p50"] for row, t in zip(rows, timed, strict=True)}
    for row, t in zip(rows, timed, strict=True):
        row |= {f"{k}_ms": v for k, v in t.items()}
        row["speedup"] = p50["pcm_policy", row["reference"]] / t["p50"]
        row["speedup_over_ddpm"] = p50["pcm_policy", slowest_first] / t["p50"]
        if ("lerobot", row["reference"]) in p50:
            row["speedup_over_lerobot"] = p50["lerobot", row["reference"]] / t["p50"]
    return {
        "rows": _beside(rows),
        "left_out": left_out,
        "rounds_to_error": count_rounds(policy, obs, pairs, error, seed, progress),
        "error": error,
        "observations": len(obs),
        "calls": calls,
        "batch": 1,
        "dtype": str(policy.dtype).removeprefix("torch."),
        "hardware": hardware(policy.device),
        **({"encode_ms": time_encoding(policy, sights, calls)} if sights else {}),
    }


def _beside(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put another package's row after our sequential row of the same sampler."""
    others = {row["reference"]: row for row in rows if row["package"] != "pcm_policy"}
    result = []
    for row in (row for row in rows if row["package"] == "pcm_policy"):
        result.append(row)
        if row["solver"] == row["reference"] and row["reference"] in others:
            result.append(others.pop(row["reference"]))
    return result
