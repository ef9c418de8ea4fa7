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
    {"method": "paradigms", "tolerance": ERROR},
)
WITH_HEAD: tuple[dict[str, Any], ...] = (  # rows of the head's own sampler
    {"method": "sequential"},
    {"method": "pcm", "rounds": 1},
    {"method": "pcm", "rounds": 2},
    {"method": "pcm", "pcm_rounds": 2, "tolerance": ERROR},
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


def scheduler_settings(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return what a diffusers scheduler must know about a policy."""
    schedule = policy.config.schedule
    return {
        "num_train_timesteps": schedule.train_steps,
        "beta_schedule": schedule.name,
        "beta_start": schedule.beta_start,
        "beta_end": schedule.beta_end,
        "prediction_type": policy.config.prediction,
    }


def clipping(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return the clipping settings of diffusers' DDPM and DDIM schedulers."""
    clip = policy.config.clip
    return {"clip_sample": clip is not None, "clip_sample_range": clip or 1.0}


def diffusers_loop(
    policy: DiffusionPolicy, scheduler: Any, label: str, reference: SamplerConfig, note: str = ""
) -> Side:
    """Return a row of diffusers' usual loop: one network call and one ``step`` a timestep."""
    size = (policy.config.horizon, policy.config.action_dim)
    stochastic = policy.sampler(reference).stochastic

    @torch.inference_mode()
    def run(obs: Tensor, seed: int) -> Solved:
        generator = torch.Generator(policy.device).manual_seed(seed)
        cond = policy.condition(obs)
        x = torch.randn(
            (len(obs), *size), generator=generator, device=policy.device, dtype=policy.dtype
        )
        # part of the usual loop: multistep schedulers keep state from one solve to the next
        scheduler.set_timesteps(reference_steps, device=policy.device)
        more = {"generator": generator} if stochastic else {}
        for t in scheduler.timesteps:
            output = policy.network(x, t.expand(len(x)), cond)
            x = scheduler.step(output, t, x, **more).prev_sample
        count = len(scheduler.timesteps)
        return Solved(x, count, count)

    reference_steps = int(label.rsplit("-", 1)[1])
    return Side("diffusers", "sequential", label, reference, run, note=note)


def diffusers_parallel(policy: DiffusionPolicy, sampler: SamplerConfig) -> Side:
    """Return a row of the published ParaDiGMS loop on diffusers' parallel schedulers."""
    import diffusers
    from compare_parallel import TOLERANCE, paradigms_diffusers

    kind = getattr(diffusers, f"{sampler.name.upper()}ParallelScheduler")
    scheduler = kind(**scheduler_settings(policy), **clipping(policy))
    scheduler.set_timesteps(sampler.steps)

    def run(obs: Tensor, seed: int) -> Solved:
        noise = draw_noise(policy, sampler, len(obs), seed)
        cond = policy.condition(obs)
        return paradigms_diffusers(scheduler, policy.network, cond, noise.initial, noise.steps)

    label = f"paradigms tol {TOLERANCE:g} ({sampler.name}-{sampler.steps})"
    return Side("diffusers", "paradigms", label, sampler, run)


def diffusers_sides(policy: DiffusionPolicy, sampler: SamplerConfig) -> Iterator[Side]:
    """Yield diffusers' rows for one sampler: the same sampler, DPM-Solver, ParaDiGMS."""
    import diffusers

    settings = scheduler_settings(policy)
    kind = getattr(diffusers, f"{sampler.name.upper()}Scheduler")
    label = f"{sampler.name}-{sampler.steps}"
    yield diffusers_loop(policy, kind(**settings, **clipping(policy)), label, sampler)
    yield diffusers_parallel(policy, sampler)
    if sampler.name == "ddim":
        # a different sampler of the same ODE: its error is taken to the finest DDIM there is;
        # diffusers' own advice for the cosine schedule is to clip the log SNR at -5.1
        fine = replace(sampler, steps=policy.config.schedule.train_steps)
        scheduler = diffusers.DPMSolverMultistepScheduler(**settings, lambda_min_clipped=-5.1)
        note = "another sampler, without clipping; error to sequential DDIM with all timesteps"
        yield diffusers_loop(policy, scheduler, f"dpmsolver++-{sampler.steps}", fine, note)


def our_sides(policy: DiffusionPolicy, sampler: SamplerConfig) -> Iterator[Side]:
    """Yield this package's rows for one sampler, in every mode that can be had here."""
    for values in OURS:
        yield ours(policy, SolverConfig(sampler=sampler, **values))


def head_sides(policy: DiffusionPolicy) -> Iterator[Side]:
    """Yield the rows of a policy's PCM head, which belongs to one sampler."""
    head = policy.config.head
    if head is not None:
        for values in WITH_HEAD:
            yield ours(policy, SolverConfig(sampler=head.sampler, **values))
