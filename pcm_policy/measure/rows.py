"""The rows of a benchmark: what is compared, told apart by solver and sampler, never by a label."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver, flat
from pcm_policy.solvers.step import STEPS, Step, needs

OURS = "pcm_policy"
FEW_STEPS = (1, 2, 3, 4, 8)
FINE_STEPS = (32, 16)
PARTS = ("linearised",)
"""Solvers that others are made of: rows where they are asked for alone."""


@dataclass(frozen=True)
class Row:
    """One way to a chunk.

    Attributes:
        solver: how it is solved.
        reference: the sampler whose sequential chunk its error is taken to.
        package: whose loop runs.
    """

    solver: Solver
    reference: SamplerConfig
    package: str = OURS

    @property
    def label(self) -> str:
        """Name in tables; another package's rows begin with its name."""
        return self.solver.label if self.package == OURS else f"{self.package} {self.solver.label}"

    @property
    def method(self) -> str:
        """The solver's method."""
        return self.solver.method


def settings(solver: Solver) -> dict[str, Any]:
    """Return a solver's settings as one flat mapping, as ``solver=...`` takes them."""
    return flat(solver)


def described(solver: Solver) -> dict[str, Any]:
    """Return a solver for a file of results: its label, and its settings flat."""
    return {"label": solver.label, **settings(solver)}


def certificate(policy: DiffusionPolicy, solver: Solver) -> dict[str, str]:
    """Return what results say of a solver's certificates; nothing where it gives none."""
    return {} if solver.tolerance is None else {"certificate": policy.trust(solver)}


def sequential(sampler: SamplerConfig, package: str = OURS) -> Row:
    """Return the row of a sampler's own sequential solve."""
    return Row(Solver.of("sequential", sampler), sampler, package)


def default_rows(
    policy: DiffusionPolicy, error: float, methods: Sequence[str] | None = None
) -> list[Row]:
    """Return what a benchmark compares, the slowest sequential sampler first.

    Args:
        policy: the policy.
        error: tolerance of the adaptive rows.
        methods: rows of these methods alone, beside the sequential ones; None for all.

    Returns:
        Rows, no two the same. Every reference has its sequential row.

    Raises:
        PcmError: a method that does not exist.
    """
    names = tuple(STEPS) if methods is None else ("sequential", *methods)
    wanted = {STEPS.name(find_method(name)) for name in names}
    parallel = parallel_methods(methods or ())
    finer = references(policy)
    head = policy.config.head
    fixed = finer[-1] if head is None else head.sampler
    solved = dict.fromkeys([*finer, fixed])
    rows = [row for sampler in solved for row in _until_exact(policy, sampler, parallel, error)]
    rows += [*_fixed_rounds(policy, fixed, error), *_few_steps(policy, fixed)]
    return [row for row in dict.fromkeys(rows) if row.method in wanted]


def parallel_methods(more: Sequence[str] = ()) -> list[str]:
    """Return the solvers that need no head and can be run until a tolerance.

    Args:
        more: solvers of somebody's own, ``module:Name``, beside those of the package.

    Raises:
        PcmError: a method that does not exist.
    """
    found = []
    for name in dict.fromkeys([*STEPS, *more]):
        kind = find_method(name)
        if name in PARTS and name not in more:
            continue
        if "tolerance" in kind.limits and "head" not in needs(kind()):
            found.append(name)
    return found


def find_method(name: str) -> type[Step]:
    """Return a solver by its name.

    Raises:
        PcmError: there is none of that name.
    """
    try:
        return STEPS.find(name)
    except PcmError as error:
        raise PcmError(f"methods: {error}") from error


def references(policy: DiffusionPolicy) -> list[SamplerConfig]:
    """Return the samplers that are solved until exact: the slowest first, then the policy's own."""
    own, every = policy.config.sampler, policy.config.schedule.train_steps
    slowest = SamplerConfig("ddpm", every, temperature=own.temperature)
    if policy.config.schedule.is_flow or own.name == "consistency":
        slowest = with_steps(own, every)
    finer = [with_steps(own, steps) for steps in FINE_STEPS if steps < every]
    return list(dict.fromkeys([slowest, *finer]))


def with_steps(sampler: SamplerConfig, steps: int) -> SamplerConfig:
    """Return a sampler with another number of steps, at its even spacing."""
    return replace(sampler, steps=steps, timesteps=None)


def _until_exact(
    policy: DiffusionPolicy, sampler: SamplerConfig, methods: Sequence[str], error: float
) -> Iterator[Row]:
    yield sequential(sampler)
    for method in methods:
        if method != "paradigms" or policy.sampler(sampler).one_step:
            yield Row(policy.cautious(Solver.of(method, sampler, tolerance=error)), sampler)


def _fixed_rounds(policy: DiffusionPolicy, sampler: SamplerConfig, error: float) -> Iterator[Row]:
    for rounds in (2, 3, 4):
        yield Row(Solver.of("picard", sampler, rounds=rounds), sampler)
    if policy.config.head is None:
        return
    for rounds in (1, 2, 3):
        yield Row(Solver.of("pcm", sampler, rounds=rounds), sampler)
    yield Row(policy.solver({"method": "pcm", "tolerance": error}), sampler)
    if policy.head is not None and policy.head.adds_to_base:
        yield Row(policy.solver({"method": "adaptive", "tolerance": error}), sampler)


def _few_steps(policy: DiffusionPolicy, reference: SamplerConfig) -> Iterator[Row]:
    for steps in FEW_STEPS:
        if steps <= policy.config.schedule.train_steps:
            sampler = with_steps(policy.config.sampler, steps)
            yield Row(Solver.of("sequential", sampler), reference)
