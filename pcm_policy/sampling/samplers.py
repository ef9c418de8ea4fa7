"""The samplers that ship, and how one is built.

Each is an :class:`~pcm_policy.sampling.affine.AffineSampler`, ``X = p x_0 + S z + M xhat``, and a
file: DDPM, DDIM, DPM-Solver++, multistep consistency sampling and three for flow matching.
docs/affine.md has the derivations, docs/extend.md shows how to add one.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.sampling import (
    adams,
    consistency,
    ddim,
    ddpm,
    dpmpp,
    flow,
)  # they register themselves
from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SAMPLERS, Previous, SamplerConfig, Variance, sampler
from pcm_policy.sampling.schedules import NoiseSchedule

__all__ = [
    "SAMPLERS",
    "AffineSampler",
    "Previous",
    "SamplerConfig",
    "Variance",
    "build_sampler",
    "chosen_sampler",
    "sampler",
    "unroll",
]
SHIPPED = (ddpm, ddim, dpmpp, consistency, flow, adams)


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


def chosen_sampler(own: SamplerConfig, said: Mapping[str, Any], train_steps: int) -> SamplerConfig:
    """Return the sampler that is wanted: what was said, the rest as another's.

    ``flow_adams`` in place of ``flow_euler`` follows its steps, unless ``follows`` is said.

    Args:
        own: the other sampler, such as the policy's.
        said: fields of :class:`SamplerConfig`.
        train_steps: training timesteps of the noise schedule, which ``ddpm`` visits all.

    Raises:
        PcmError: an unknown sampler, or a wrong value.
    """
    name, said = said.get("name", own.name), dict(said)
    if name in SAMPLERS and SAMPLERS.find(name).flow and SAMPLERS.find(own.name).flow:
        loop = own.steps if own.name == "flow_euler" else own.follows
        own = replace(own, name=name, follows=loop if name == "flow_adams" else 0)
    elif name != own.name:  # of another one only steps and temperature carry over
        steps = train_steps if name == "ddpm" else own.steps
        own = SamplerConfig(name, steps, temperature=own.temperature)
    if isinstance(said.get("timesteps"), list | tuple):
        said.setdefault("steps", len(said["timesteps"]))
    elif "steps" in said or "spacing" in said:
        said["timesteps"] = None
    return replace(own, **said)
