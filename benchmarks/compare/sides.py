"""The sides of the comparison: every way to get a chunk out of the same weights.

Every side draws its own noise inside the timed call, from a generator with the call's seed, in one
order: the initial chunk, then one chunk a step. So all sides of one sampler see the same numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.lerobot_sampling import draw_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import eager
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

ERROR = 1e-3
OURS: tuple[dict[str, Any], ...] = (  # one line a row; ``sampler`` is filled in
    {"method": "sequential"},
    {"method": "picard", "tolerance": ERROR},
    {"method": "picard", "rounds": 4},
    {"method": "coarse", "tolerance": ERROR},
    {"method": "anderson", "tolerance": ERROR},
    {"method": "newton", "tolerance": ERROR},
    {"method": "paradigms", "tolerance": ERROR},
)
OTHER: tuple[dict[str, Any], ...] = ({"method": "sequential"}, {"method": "picard", "rounds": 4})
WITH_HEAD: tuple[dict[str, Any], ...] = (  # rows of the head's own sampler
    {"method": "sequential"},
    {"method": "pcm", "rounds": 1},
    {"method": "pcm", "rounds": 2},
    {"method": "pcm", "tolerance": ERROR},
    {"method": "adaptive", "tolerance": ERROR},
)


@dataclass(frozen=True)
class Solved:
    """A chunk and what it took.

    Attributes:
        sample: ``(B, T, Da)`` normalised chunk.
        rounds: network calls, one after another.
        nfe: evaluated states per chunk.
        ms: time in milliseconds where the side took it itself, else None.
    """

    sample: Tensor
    rounds: int
    nfe: int
    ms: float | None = None


@dataclass(frozen=True)
class Side:
    """One row of the comparison.

    Attributes:
        package: whose loop runs.
        method: ``sequential`` or the name of a parallel method.
        label: name in tables.
        reference: the sampler whose sequential chunk the row's error is taken to.
        run: ``(obs (B, To, Do) raw, seed) -> Solved``.
        mode: ``eager``, or what the row runs under.
        memory: measures the bytes of a call where that is not in this process, else None.
        note: what a reader must know about the row.
    """

    package: str
    method: str
    label: str
    reference: SamplerConfig
    run: Callable[[Tensor, int], Solved]
    mode: str = "eager"
    memory: Callable[[], float | None] | None = None
    note: str = ""


def finest(policy: DiffusionPolicy, sampler: SamplerConfig) -> SamplerConfig:
    """Return DDIM with all timesteps, which judges other samplers of the same ODE."""
    return replace(sampler, steps=policy.config.schedule.train_steps)


def ours(
    policy: DiffusionPolicy,
    solver: Solver,
    runtime: Runtime | None = None,
    reference: SamplerConfig | None = None,
) -> Side:
    """Return a row of this package, run by ``runtime`` or else eagerly.

    Its error is taken to the solver's own sampler, or else to ``reference``.
    """

    @torch.inference_mode()
    def run(obs: Tensor, seed: int) -> Solved:
        noise = draw_noise(policy, solver.sampler, len(obs), seed)
        found = policy.solve(obs, solver, noise, execute=runtime or eager)
        return Solved(found.sample, found.rounds, found.nfe)

    mode = "eager" if runtime is None else runtime.config.mode
    note = "" if reference is None else "error to sequential DDIM with all timesteps"
    target = reference or solver.sampler
    return Side("pcm_policy", solver.method, solver.label, target, run, mode, note=note)


def rows_of(
    policy: DiffusionPolicy,
    sampler: SamplerConfig,
    rows: tuple[dict[str, Any], ...],
    runtimes: Sequence[Runtime],
    reference: SamplerConfig | None = None,
) -> Iterator[Side]:
    """Yield a row a line, eagerly and by every runtime."""
    for values in rows:
        solver = Solver.of(sampler=sampler, **values)
        for runtime in (None, *runtimes):
            yield ours(policy, solver, runtime, reference)


def our_sides(
    policy: DiffusionPolicy,
    sampler: SamplerConfig,
    runtimes: Sequence[Runtime] = (),
    calibration: Tensor | None = None,
) -> Iterator[Side]:
    """Yield this package's rows for one sampler.

    Args:
        policy: the policy.
        sampler: the sampler.
        runtimes: other ways to run it than eagerly.
        calibration: ``(n, To, Do)`` observations for the mean Jacobian that ``newton`` needs, none
            of them timed; without them that row is left out.
    """
    rows = OURS
    if calibration is None:
        rows = tuple(values for values in OURS if values["method"] != "newton")
    else:
        policy.calibrate(calibration, sampler)
    yield from rows_of(policy, sampler, rows, runtimes)
    if sampler.name == "ddim":  # beside diffusers' DPM-Solver, judged as that is
        other = SamplerConfig("dpmpp_2m", sampler.steps)
        yield from rows_of(policy, other, OTHER, runtimes, finest(policy, sampler))


def head_sides(policy: DiffusionPolicy, runtimes: Sequence[Runtime] = ()) -> Iterator[Side]:
    """Yield the rows of a policy's PCM head, which belongs to one sampler."""
    head = policy.config.head
    if head is not None:
        yield from rows_of(policy, head.sampler, WITH_HEAD, runtimes)
