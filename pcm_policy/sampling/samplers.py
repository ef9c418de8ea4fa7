"""The samplers that ship, and how one is built.

Each is an :class:`~pcm_policy.sampling.affine.AffineSampler`, ``X = p x_0 + S z + M xhat``, and a
file: DDPM, DDIM, DPM-Solver++, multistep consistency sampling and two for flow matching.
docs/affine.md has the derivations, docs/extend.md shows how to add one.
"""

from dataclasses import replace
from typing import Literal

from pcm_policy.errors import PcmError
from pcm_policy.sampling import consistency, ddim, ddpm, dpmpp, flow  # they register themselves
from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SAMPLERS, Previous, SamplerConfig, Variance, sampler
from pcm_policy.sampling.schedules import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "AffineSampler",
    "Previous",
    "SamplerConfig",
    "SamplerName",
    "Variance",
    "build_sampler",
    "sampler",
    "unroll",
]
SHIPPED = (ddpm, ddim, dpmpp, consistency, flow)
SamplerName = Literal[
    "ddpm", "ddim", "dpmpp_2m", "dpmpp_3m", "consistency", "flow_euler", "flow_2m"
]


def build_sampler(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of a sampler, in float64.

    Raises:
        PcmError: a sampler that does not belong to the schedule, more steps than it was trained
            with, or an invalid spacing.
    """
    kind, share = SAMPLERS.find(config.name), config.temperature
    if kind.flow != schedule.is_flow:
        fitting = [name for name in SAMPLERS if SAMPLERS.find(name).flow == schedule.is_flow]
        raise PcmError(
            f"sampler {config.name} does not belong to noise schedule {schedule.name}: use one of "
            f"{', '.join(fitting)}"
        )
    full = kind.build(schedule, config)
    return replace(full, p=share * full.p, S=share * full.S, noise=share * full.noise)
