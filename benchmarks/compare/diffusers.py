"""diffusers' rows: its schedulers in the usual loop, and its parallel schedulers in ParaDiGMS."""

from collections.abc import Iterator
from typing import Any

import diffusers
import torch
from torch import Tensor

from benchmarks.compare.parallel import TOLERANCE, paradigms_diffusers
from benchmarks.compare.sides import Side, Solved, finest
from pcm_policy.adopt.lerobot_sampling import draw_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig


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
    policy: DiffusionPolicy,
    scheduler: Any,
    label: str,
    steps: int,
    reference: SamplerConfig,
    note: str = "",
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
        scheduler.set_timesteps(steps, device=policy.device)
        more = {"generator": generator} if stochastic else {}
        for t in scheduler.timesteps:
            output = policy.network(x, t.expand(len(x)), cond)
            x = scheduler.step(output, t, x, **more).prev_sample
        count = len(scheduler.timesteps)
        return Solved(x, count, count)

    return Side("diffusers", "sequential", label, reference, run, note=note)


def diffusers_parallel(policy: DiffusionPolicy, sampler: SamplerConfig) -> Side:
    """Return a row of the published ParaDiGMS loop on diffusers' parallel schedulers."""
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
    settings = scheduler_settings(policy)
    kind = getattr(diffusers, f"{sampler.name.upper()}Scheduler")
    label = f"{sampler.name}-{sampler.steps}"
    yield diffusers_loop(
        policy, kind(**settings, **clipping(policy)), label, sampler.steps, sampler
    )
    yield diffusers_parallel(policy, sampler)
    if sampler.name == "ddim":
        # a different sampler of the same ODE: its error is taken to the finest DDIM there is;
        # diffusers' own advice for the cosine schedule is to clip the log SNR at -5.1
        fine = finest(policy, sampler)
        scheduler = diffusers.DPMSolverMultistepScheduler(**settings, lambda_min_clipped=-5.1)
        note = "another sampler, without clipping; error to sequential DDIM with all timesteps"
        label = f"dpmsolver++-{sampler.steps}"
        yield diffusers_loop(policy, scheduler, label, sampler.steps, fine, note)
