"""Choose sampler, solver, rounds, window, mode and precision for a target on this device.

Candidates are measured, not modelled: the error of each to the sequential chunk of the policy's own
sampler, on held-out observations, and its time per chunk at batch 1, all candidates taking
turns. Few-step sequential sampling is among them, at even spacings and at searched timesteps, and
wins where it reaches a target faster.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.measure.bench import time_predictions
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import paired_noise, solved
from pcm_policy.measure.few_steps import searched
from pcm_policy.measure.rows import parallel_methods, settings
from pcm_policy.measure.timing import time_call
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import eager
from pcm_policy.runtime.timing import Progress, no_progress
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import Spacing
from pcm_policy.solvers.registry import Solver

Closeness = Callable[[Solver], tuple[float, float, float]]
"""Paired difference of a solver's score to the reference's: mean, lower and upper end."""


SLACK = 3.0
"""In further runtimes, a solver is not tried if another one is no less accurate and so much faster
in the first."""
LATE = ("coarse", "anderson")
"""Solvers whose first two rounds are those of others."""


@dataclass(frozen=True)
class Target:
    """What is asked for; exactly one field is set.

    Attributes:
        deadline_ms: smallest error among those whose p95 is within this time.
        error: fastest of those whose mean RMSE to the sequential chunk, in normalised action
            units, is at most this.
        score_within: fastest of those whose closed-loop score equals the reference's: the paired
            95 % interval of the difference lies within plus or minus this.
    """

    deadline_ms: float | None = None
    error: float | None = None
    score_within: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in asdict(self).values() if value is not None]
        if len(given) != 1 or given[0] <= 0:
            raise PcmError("give exactly one of deadline_ms, error, score_within, above zero")


@dataclass(frozen=True)
class Candidate:
    """One way to solve, and what it costs and is worth here."""

    solver: Solver
    runtime: RuntimeConfig
    rmse: float
    rounds: float
    nfe: float
    times_ms: dict[str, float]
    score_difference: tuple[float, float, float] | None = None

    @property
    def label(self) -> str:
        """Name for tables."""
        mode = "" if self.runtime.mode == "eager" else f" {self.runtime.mode}"
        mode += "" if self.runtime.threads is None else f" threads {self.runtime.threads}"
        precision = "" if self.runtime.precision == "float32" else f" {self.runtime.precision}"
        sampler = self.solver.sampler
        spacing: str = "" if sampler.name == "ddpm" else sampler.spacing
        if sampler.timesteps is not None:
            spacing = str(list(sampler.timesteps)).replace(" ", "")
        return f"{self.solver.label} {spacing}{mode}{precision}".strip()


def reference_sampler(policy: DiffusionPolicy) -> SamplerConfig:
    """Return the sampler whose chunk is wanted: the head's, or else the policy's own."""
    head = policy.config.head
    return policy.config.sampler if head is None else head.sampler


def searched_samplers(
    policy: DiffusionPolicy,
    steps: Sequence[int],
    obs: Tensor,
    seed: int,
    progress: Progress = no_progress,
) -> list[SamplerConfig]:
    """Return few-step DDIM at searched timesteps; flow policies have none.

    Args:
        policy: the policy.
        steps: numbers of steps.
        obs: ``(n, To, Do)`` raw observations to search on.
        seed: of the noise.
        progress: shows how far it is.
    """
    if policy.config.schedule.is_flow or not steps:
        return []
    reference = reference_sampler(policy)
    exact = solved(policy, Solver.of("sequential", reference), obs, seed)
    ddim = SamplerConfig("ddim", temperature=reference.temperature)
    spacings: tuple[Spacing, ...] = ("trailing", "leading")
    kinds = [[replace(ddim, steps=few, spacing=s) for s in spacings] for few in steps]
    return [
        searched(policy, start, obs, exact.sample, seed) for start in progress(kinds, "timesteps")
    ]


def candidate_solvers(
    policy: DiffusionPolicy, samplers: Sequence[SamplerConfig] = (), methods: Sequence[str] = ()
) -> list[Solver]:
    """List the solvers that are tried, the reference first.

    Args:
        policy: the policy.
        samplers: tried sequentially, beside evenly spaced ones.
        methods: solvers of somebody's own, ``module:Name``, beside those of the package.

    Raises:
        PcmError: a method that does not exist.
    """
    reference = reference_sampler(policy)
    steps, trained = reference.steps, policy.config.schedule.train_steps
    found = [Solver.of("sequential", reference)]
    evenly: tuple[Spacing, ...] = ("trailing", "linspace")
    for spacing in evenly:
        for few in (1, 2, 3, 4, 6, 8, 12):
            if few < steps:
                ddim = SamplerConfig("ddim", temperature=reference.temperature)
                kind = reference if policy.config.schedule.is_flow else ddim
                sampler = replace(kind, steps=min(few, trained), spacing=spacing)
                found.append(Solver.of("sequential", sampler))
    found += [Solver.of("sequential", sampler) for sampler in samplers]
    tried = [method for method in parallel_methods(methods) if method != "paradigms"]
    for rounds in (rounds for rounds in (1, 2, 3, 4, 6, 8) if rounds < steps):
        early = [method for method in tried if method not in LATE]
        for method in tried if rounds > 2 else early:
            found.append(Solver.of(method, reference, rounds=rounds))
        if rounds > 2:
            window = max(steps // 2, steps - rounds + 1)
            found.append(Solver.of("picard", reference, rounds=rounds, window=window))
    if policy.config.head is not None:
        for rounds in range(1, policy.config.head.rounds + 1):
            found.append(Solver.of("pcm", reference, rounds=rounds))
            words = {"rounds": rounds + 1, "shares": [1.0] * rounds}
            found.append(policy.solver({"method": "pcm", **words}))
    return found


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


def measure(
    policy: DiffusionPolicy,
    observations: Tensor,
    runtimes: Sequence[RuntimeConfig],
    *,
    samplers: Sequence[SamplerConfig] = (),
    methods: Sequence[str] = (),
    calls: int = 50,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[Candidate]:
    """Measure every candidate in the first runtime, and those that may win in the others.

    The policy's own runtime is left as it was.
    """
    obs = observations.to(policy.device, policy.dtype)
    frames: NDArray[np.float32] = observations.float().cpu().numpy()
    solvers, reference = candidate_solvers(policy, samplers, methods), reference_sampler(policy)
    noise = paired_noise(policy, solvers[0], len(obs), seed)
    policy.calibrate(obs, reference, seed + 1_000_000)
    kept, found = policy.execute, list[Candidate]()
    exact = policy.solve(obs, solvers[0], noise, execute=eager).sample
    try:
        for runtime in runtimes:
            policy.use(Runtime(policy, runtime))
            wanted = contenders(found) if found else solvers
            tried = [solver for solver in wanted if _runs(policy, solver, frames[0], runtime)]
            times = time_predictions(policy, tried, frames, calls, progress)
            for solver, spent in zip(tried, times, strict=True):
                one = policy.solve(obs, solver, noise)
                rmse = float((one.sample - exact).square().mean(dim=(1, 2)).sqrt().mean())
                found.append(Candidate(solver, runtime, rmse, one.rounds, one.nfe, spent))
    finally:
        policy.use(kept)
    if not found:
        raise PcmError("no solver runs in these modes: add eager to modes")
    return found


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


def contenders(candidates: Sequence[Candidate]) -> list[Solver]:
    """Return the solvers that may be the best in some runtime, in their order.

    An engine makes some solvers faster than others, but none by ``SLACK`` more than another.
    """

    def beaten(one: Candidate) -> bool:
        p50 = one.times_ms["p50"]
        return any(
            other.rmse <= one.rmse and SLACK * other.times_ms["p50"] < p50 for other in candidates
        )

    return list(dict.fromkeys(one.solver for one in candidates if not beaten(one)))


def choose(
    candidates: Sequence[Candidate], target: Target, closeness: Closeness | None = None
) -> tuple[Candidate, str, list[Candidate]]:
    """Pick a candidate.

    Args:
        candidates: as measured.
        target: what is asked for.
        closeness: scores a solver in closed loop, for ``score_within``.

    Returns:
        The choice, a sentence that explains it, and the candidates with what was found out.

    Raises:
        PcmError: no candidate reaches the target.
    """
    by_time = sorted(candidates, key=lambda c: c.times_ms["p50"])
    if target.deadline_ms is not None:
        limit = target.deadline_ms
        fit = [c for c in by_time if c.times_ms["p95"] <= limit]
        if not fit:
            fastest = by_time[0]
            raise PcmError(
                f"nothing keeps deadline_ms={limit:g}: the fastest, {fastest.label}, takes "
                f"{fastest.times_ms['p95']:.2f} ms (p95) on this device"
            )
        best = min(fit, key=lambda c: (c.rmse, c.times_ms["p50"]))
        why = f"the smallest error of the {len(fit)} candidates with p95 within {limit:g} ms"
        return best, why, list(candidates)
    if target.error is not None:
        fit = [c for c in by_time if c.rmse <= target.error]
        why = f"the fastest of the {len(fit)} candidates with mean RMSE within {target.error:g}"
        return fit[0], why, list(candidates)  # the reference itself has error zero
    assert target.score_within is not None
    assert closeness is not None
    looked = {}
    for candidate in by_time:
        if candidate.solver not in looked:
            looked[candidate.solver] = closeness(candidate.solver)
        mean, low, high = looked[candidate.solver]
        if -target.score_within <= low and high <= target.score_within:
            known = [replace(c, score_difference=looked.get(c.solver)) for c in candidates]
            why = (
                f"the fastest whose score equals the reference's: difference {mean:+.3f} "
                f"[{low:+.3f}, {high:+.3f}], within {target.score_within:g}; {len(looked) - 1} "
                "faster ones are not shown to be equal"
            )
            return replace(candidate, score_difference=looked[candidate.solver]), why, known
    raise PcmError(
        f"no candidate's score is shown to be within {target.score_within:g} of the reference's: "
        "use more episodes"
    )


def report(
    policy: DiffusionPolicy,
    candidates: Sequence[Candidate],
    best: Candidate,
    why: str,
    target: Target,
) -> dict[str, Any]:
    """Return plain data for JSON."""
    return conditions(policy) | {
        "target": {k: v for k, v in asdict(target).items() if v is not None},
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
