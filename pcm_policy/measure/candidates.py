"""What the tuner tries: solvers, and few-step sequential sampling beside them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from pcm_policy.measure.exactness import solved
from pcm_policy.measure.few_steps import searched
from pcm_policy.measure.rows import parallel_methods
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.timing import Progress, no_progress
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import Spacing
from pcm_policy.solvers.registry import Solver

LATE = ("coarse", "anderson")
"""Solvers whose first two rounds are those of others."""


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
