"""Schedulers of diffusers, as checkpoints name them, in this package's terms."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import PredictionType
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule

LEROBOT = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "clip_sample",
    "clip_sample_range",
    "prediction_type",
)
"""What LeRobot's configs hand to a scheduler."""
_DEFAULTS: dict[str, Any] = {  # diffusers' own, where DDPMScheduler and DDIMScheduler agree
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "variance_type": "fixed_small",
}
_ONLY: dict[str, tuple[Any, ...]] = {  # settings that must be off
    "trained_betas": (None,),
    "thresholding": (False, None),
    "rescale_betas_zero_snr": (False, None),
}
_TRAINED = 100_000
_IRRELEVANT = {"dynamic_thresholding_ratio", "sample_max_value", "_target_", "_class_name"}
_IRRELEVANT |= {"_diffusers_version"}


@dataclass(frozen=True)
class Scheduling:
    """A noise schedule and the sampler that runs on it, with what the network outputs."""

    schedule: NoiseSchedule
    prediction: PredictionType
    clip: float | None
    sampler: SamplerConfig


def euler_flow(steps: int) -> Scheduling:
    """Return LeRobot's flow matching: even Euler steps, unclipped; time is the noise level."""
    own = SamplerConfig("flow_euler", steps)
    return Scheduling(NoiseSchedule("flow", train_steps=1), "flow_velocity", None, own)


def scheduling(
    file: str,
    name: str,
    given: Mapping[str, Any],
    steps: int | None,
    *,
    eta: float = 0.0,
    use_clipped_model_output: bool = False,
) -> Scheduling:
    """Translate the arguments of a diffusers scheduler.

    Args:
        file: for messages.
        name: ``DDPM`` or ``DDIM``.
        given: its constructor's arguments; what is not given is diffusers' default.
        steps: inference steps; None for all training steps.
        eta: argument of DDIM's ``step``.
        use_clipped_model_output: argument of DDIM's ``step``.

    Raises:
        PcmError: a scheduler or a setting that has no counterpart here.
    """
    values = _settings(file, name, given)
    schedule = values["beta_schedule"]
    if schedule not in ("squaredcos_cap_v2", "linear"):
        raise PcmError(
            f"{file}: beta_schedule={schedule!r}: squaredcos_cap_v2 and linear can be imported"
        )
    prediction = values["prediction_type"]
    if prediction not in ("epsilon", "sample", "v_prediction"):
        raise PcmError(f"{file}: prediction_type={prediction!r} is unknown")
    trained = int(values["num_train_timesteps"])
    if not 1 <= trained <= _TRAINED:
        raise PcmError(f"{file}: num_train_timesteps={trained} is no schedule: it is damaged")
    count = trained if steps is None else int(steps)
    step = {"eta": float(eta), "rederive_epsilon": bool(use_clipped_model_output)}
    sampler = _sampler(name, values, trained, count, step)
    noise = NoiseSchedule(schedule, trained, float(values["beta_start"]), float(values["beta_end"]))
    build_sampler(noise, sampler)
    clip = float(values["clip_sample_range"]) if values["clip_sample"] else None
    return Scheduling(noise, prediction, clip, sampler)


def _settings(file: str, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scheduler's settings with diffusers' defaults; refuse those without counterpart."""
    if name not in ("DDPM", "DDIM"):
        raise PcmError(f"{file}: noise scheduler {name!r}: DDPM and DDIM can be imported")
    for key, allowed in _ONLY.items():
        if given.get(key) not in allowed:
            raise PcmError(f"{file}: noise scheduler has {key}={given[key]!r}, which is not here")
    unknown = set(given) - set(_DEFAULTS) - set(_ONLY) - _IRRELEVANT
    if unknown:
        raise PcmError(f"{file}: unknown setting {sorted(unknown)[0]!r} of the noise scheduler")
    return _DEFAULTS | {k: v for k, v in given.items() if k in _DEFAULTS}


def _sampler(
    name: str, values: Mapping[str, Any], trained: int, count: int, step: Mapping[str, Any]
) -> SamplerConfig:
    """Return the sampler; ``step`` holds the arguments of DDIM's ``step``."""
    common: dict[str, Any] = {
        "name": name.lower(),
        "steps": count,
        "spacing": values["timestep_spacing"],
        "offset": int(values["steps_offset"]) if values["timestep_spacing"] == "leading" else 0,
    }
    if name == "DDPM":
        return SamplerConfig(**common, variance=values["variance_type"])
    # with leading spacing t - T//N is where the next step evaluates
    same = common["spacing"] == "leading" and common["offset"] < trained // max(count, 1)
    return SamplerConfig(
        **common,
        **step,
        previous="next" if same else "ratio",
        final_alpha_one=bool(values["set_alpha_to_one"]),
    )
