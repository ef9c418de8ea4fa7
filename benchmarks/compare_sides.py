"""The sides of the comparison: every way to get a chunk out of the same weights.

Every side draws its own noise inside the timed call, from a generator with the call's seed, in one
order: the initial chunk, then one chunk a step. So all sides of one sampler see the same numbers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.noise import Noise
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig

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
WITH_HEAD: tuple[dict[str, Any], ...] = (  # rows of the head's own sampler
    {"method": "sequential"},
    {"method": "pcm", "rounds": 1},
    {"method": "pcm", "rounds": 2},
    {"method": "pcm", "pcm_rounds": 2, "tolerance": ERROR},
    {"method": "pcm", "adaptive": True, "tolerance": ERROR},
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
        local: runs in this process, so that its operations and memory can be counted.
        note: what a reader must know about the row.
    """

    package: str
    method: str
    label: str
    reference: SamplerConfig
    run: Callable[[Tensor, int], Solved]
    mode: str = "eager"
    local: bool = True
    note: str = ""


def common_sampler(name: str, steps: int) -> SamplerConfig:
    """Return the sampler that diffusers' defaults describe and LeRobot runs."""
    return SamplerConfig(
        name,  # type: ignore[arg-type]
        steps,
        spacing="leading",
        previous="ratio",
        rederive_epsilon=name == "ddpm",
    )


def draw_noise(policy: DiffusionPolicy, sampler: SamplerConfig, batch: int, seed: int) -> Noise:
    """Draw one call's noise, step by step, as diffusers' loop draws it."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    size = (batch, policy.config.horizon, policy.config.action_dim)

    def draw() -> Tensor:
        return torch.randn(size, generator=generator, device=policy.device, dtype=policy.dtype)

    initial = draw()
    if not policy.sampler(sampler).stochastic:
        return Noise(initial)
    return Noise(initial, torch.stack([draw() for _ in range(sampler.steps)]))


def ours(policy: DiffusionPolicy, solver: SolverConfig, mode: str = "eager") -> Side:
    """Return a row of this package."""

    def run(obs: Tensor, seed: int) -> Solved:
        noise = draw_noise(policy, solver.sampler, len(obs), seed)
        found = policy.solve(obs, solver, noise)
        return Solved(found.sample, found.rounds, found.nfe)

    return Side("pcm_policy", solver.method, solver.label, solver.sampler, run, mode)


def graphed(policy: DiffusionPolicy, solver: SolverConfig, batch: int) -> Side:
    """Return a row of this package that replays a CUDA graph, with the same noise."""
    from gpu_sides import Solve

    captured = Solve(policy, solver, batch, graph=True)

    def run(obs: Tensor, seed: int) -> Solved:
        noise = draw_noise(policy, solver.sampler, batch, seed)
        captured.obs.copy_(obs)
        captured.initial.copy_(noise.initial)
        if captured.kicks is not None and noise.steps is not None:
            captured.kicks.copy_(noise.steps)
        return Solved(captured.replay().clone(), captured.rounds, captured.nfe)

    # a replay shows neither its operations nor its memory to this process
    return replace(ours(policy, solver, "graph"), run=run, local=False)


def rows_of(
    policy: DiffusionPolicy, sampler: SamplerConfig, rows: tuple[dict[str, Any], ...], batch: int
) -> Iterator[Side]:
    """Yield a row a line, and on CUDA again as a graph where nothing is read back."""
    for values in rows:
        solver = SolverConfig(sampler=sampler, **values)
        yield ours(policy, solver)
        if policy.device.type == "cuda" and solver.tolerance is None:
            yield graphed(policy, solver, batch)


def our_sides(
    policy: DiffusionPolicy, sampler: SamplerConfig, batch: int, calibration: Tensor | None = None
) -> Iterator[Side]:
    """Yield this package's rows for one sampler.

    Args:
        policy: the policy.
        sampler: the sampler.
        batch: chunks a call.
        calibration: ``(n, To, Do)`` observations for the mean Jacobian that ``newton`` needs, none
            of them timed; without them that row is left out.
    """
    rows = OURS
    if calibration is None:
        rows = tuple(values for values in OURS if values["method"] != "newton")
    else:
        policy.calibrate(calibration, sampler)
    yield from rows_of(policy, sampler, rows, batch)


def head_sides(policy: DiffusionPolicy, batch: int) -> Iterator[Side]:
    """Yield the rows of a policy's PCM head, which belongs to one sampler."""
    head = policy.config.head
    if head is not None:
        yield from rows_of(policy, head.sampler, WITH_HEAD, batch)
