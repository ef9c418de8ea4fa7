"""Schedulers of diffusers as affine maps: any betas, spacing or sigmas that they compute.

The scheduler says its own timesteps and noise levels; this file only knows what each kind of step
does with them. diffusers is not imported.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.checks import number, whole
from pcm_policy.errors import PcmError
from pcm_policy.sampling.affine import AffineSampler, unroll, unroll_multistep
from pcm_policy.sampling.ddim import ddim_steps
from pcm_policy.sampling.ddpm import ddpm_steps
from pcm_policy.sampling.flow import euler_steps
from pcm_policy.sampling.library import Sampling
from pcm_policy.sampling.multistep import dpm_coefficients

PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v_prediction",
    "flow_prediction": "flow_velocity",
}
TABLE = frozenset(
    [
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "timestep_spacing",
        "steps_offset",
        "rescale_betas_zero_snr",
        "prediction_type",
    ]
)
"""Settings that the scheduler has made its tables of, and the prediction type."""
UNUSED = frozenset({"dynamic_thresholding_ratio", "sample_max_value"})
"""Settings of a thresholding that is off."""
SIGMAS = frozenset(
    [
        "use_karras_sigmas",
        "use_exponential_sigmas",
        "use_beta_sigmas",
        "use_lu_lambdas",
        "use_flow_sigmas",
        "flow_shift",
        "sigma_min",
        "sigma_max",
        "interpolation_type",
        "timestep_type",
        "time_shift_type",
        "shift",
        "base_shift",
        "max_shift",
        "base_image_seq_len",
        "max_image_seq_len",
        "shift_terminal",
        "use_dynamic_shifting",
    ]
)
"""Settings that the scheduler has made its levels of."""


@dataclass(frozen=True)
class Kind:
    """What is known of a class of schedulers.

    Attributes:
        build: returns the affine form of a scheduler that has its timesteps, of ``eta`` and
            ``use_clipped_model_output``.
        read: settings that are read or that the scheduler has applied itself.
        only: values that a setting may have.
        clips: whether ``clip_sample`` is a setting.
    """

    build: Callable[[Any, float, bool], AffineSampler]
    read: frozenset[str]
    only: Mapping[str, tuple[Any, ...]]
    clips: bool = False


def from_diffusers(
    scheduler: Any,
    steps: int | None = None,
    *,
    eta: float = 0.0,
    use_clipped_model_output: bool = False,
) -> Sampling:
    """Return what a scheduler of diffusers is here; the scheduler is not changed.

    DDIM, DDPM, their parallel versions, DPM-Solver++ (multistep), Euler and Euler for flows. Noise
    is drawn as the pipelines draw it: first the initial noise, then one for each step.

    Args:
        scheduler: of diffusers.
        steps: inference steps; None for the timesteps that the scheduler has now, and before
            ``set_timesteps`` for all training timesteps.
        eta: argument of DDIM's ``step``.
        use_clipped_model_output: argument of DDIM's ``step``.

    Raises:
        PcmError: another kind of scheduler, or a setting that has no counterpart here.

    Example:
        ``from_diffusers(pipe.scheduler, 50).denoiser(pipe.unet, noise)``
    """
    name = type(scheduler).__name__
    kind = KINDS.get(name)
    if kind is None:
        raise PcmError(
            f"{name} is not an affine map that is known here: use one of {', '.join(KINDS)}, such "
            "as DDIMScheduler.from_config(scheduler.config)"
        )
    config = _own(scheduler)
    _check(name, kind, config)
    if name not in DDIM and (eta or use_clipped_model_output):
        raise PcmError(f"{name} has no eta and no use_clipped_model_output: they are DDIM's")
    number("eta", eta, 0, 1)
    own = _with_timesteps(name, scheduler, steps)
    prediction = PREDICTIONS[config.get("prediction_type", "flow_prediction")]
    sampler = kind.build(own, float(eta), bool(use_clipped_model_output))
    if prediction == "epsilon" and not bool((sampler.alpha > 0).all()):
        raise PcmError(
            f"{name} begins at pure noise (rescale_betas_zero_snr), where prediction_type=epsilon "
            "says nothing of the sample: such a network predicts v_prediction"
        )
    clip = float(own.config["clip_sample_range"]) if kind.clips and own.config.clip_sample else None
    return Sampling(sampler, prediction, clip)  # type: ignore[arg-type]


def _own(scheduler: Any) -> dict[str, Any]:
    """Return the settings that the scheduler's class takes.

    ``from_config`` also keeps settings of the scheduler that the configuration was of. They are not
    read.
    """
    makers = [vars(kind)["__init__"] for kind in type(scheduler).mro() if "__init__" in vars(kind)]
    taken = {name for maker in makers for name in inspect.signature(maker).parameters}
    return {key: value for key, value in scheduler.config.items() if key in taken}


def _check(name: str, kind: Kind, config: Mapping[str, Any]) -> None:
    """Refuse settings that are not reproduced."""
    only = {"prediction_type": tuple(PREDICTIONS)} | dict(kind.only)
    for key, value in config.items():
        if key in only and value not in only[key]:
            raise PcmError(f"{name} has {key}={value!r}: {key} may be {_listed(only[key])} here")
        if key not in only and key not in kind.read | UNUSED and not key.startswith("_"):
            raise PcmError(f"{name} has {key}={value!r}, a setting that is not known here")
    predicts = config.get("prediction_type") == "flow_prediction"
    if predicts and not config.get("use_flow_sigmas"):
        raise PcmError(f"{name} has prediction_type=flow_prediction without use_flow_sigmas=True")


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(str(value) for value in values)


def _with_timesteps(name: str, scheduler: Any, steps: int | None) -> Any:
    """Return a copy of the scheduler that has its timesteps."""
    own = copy.deepcopy(scheduler)
    if steps is None:
        chosen = getattr(own, "custom_timesteps", False)
        if chosen or getattr(own, "num_inference_steps", None) is not None:
            return own
        steps = int(own.config.num_train_timesteps)
    whole("steps", steps, 1)
    try:
        own.set_timesteps(steps)
    except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:
        raise PcmError(f"{name} takes no {steps} steps: {error}") from error
    if len(own.timesteps) != steps:
        raise PcmError(f"{name} visits {len(own.timesteps)} timesteps where {steps} are asked for")
    return own


def _ddim(scheduler: Any, eta: float, clipped: bool) -> AffineSampler:
    """DDIM's step ends at ``t - T // N``, whatever the spacing."""
    visited, abar = scheduler.timesteps.cpu().long(), scheduler.alphas_cumprod.cpu().double()
    step = int(scheduler.config.num_train_timesteps) // int(scheduler.num_inference_steps)
    previous, last = visited - step, torch.as_tensor(scheduler.final_alpha_cumprod).double().cpu()
    after = torch.where(previous >= 0, abar[previous.clamp(min=0)], last)
    return ddim_steps(visited, abar[visited], after, eta, clipped)


def _ddpm(scheduler: Any, eta: float, clipped: bool) -> AffineSampler:
    """DDPM's step ends at the next timestep."""
    visited, abar = scheduler.timesteps.cpu().long(), scheduler.alphas_cumprod.cpu().double()
    after = torch.cat([abar[visited[1:]], abar.new_ones(1)])
    kind = str(scheduler.config.variance_type).removesuffix("_log")  # the log only rounds otherwise
    return ddpm_steps(visited, abar[visited], after, kind)  # type: ignore[arg-type]


def _levels(scheduler: Any) -> tuple[Tensor, Tensor]:
    """Return timesteps, and ``sigma`` in units of the clean sample, both ``(N,)``."""
    sigmas = scheduler.sigmas.cpu().double()
    if float(sigmas[-1]) != 0:
        raise PcmError(f"{type(scheduler).__name__} stops at noise {float(sigmas[-1]):g}, not at 0")
    return scheduler.timesteps.cpu(), sigmas[:-1]


def _dpm(scheduler: Any, eta: float, clipped: bool) -> AffineSampler:
    """DPM-Solver++; ``sigmas`` are noise over signal, or a flow's."""
    visited, ratio = _levels(scheduler)
    if bool((ratio[1:] >= ratio[:-1]).any()):
        raise PcmError(f"{type(scheduler).__name__} visits a level twice: use fewer steps")
    if scheduler.config.get("use_flow_sigmas"):
        alpha, sigma = 1 - ratio, ratio
    else:
        alpha = (ratio**2 + 1).rsqrt()
        sigma = ratio * alpha
    order = int(scheduler.config.solver_order)
    return unroll_multistep(visited, alpha, sigma, *dpm_coefficients(alpha, sigma, order))


def _euler(scheduler: Any, eta: float, clipped: bool) -> AffineSampler:
    """Euler's steps in ``x / sqrt(sigma^2 + 1)``, which is what the network sees."""
    visited, ratio = _levels(scheduler)
    alpha = (ratio**2 + 1).rsqrt()
    after = torch.cat([ratio[1:], ratio.new_zeros(1)])
    scale = (after**2 + 1).rsqrt()
    zeros, ones = torch.zeros_like(alpha), torch.ones_like(alpha)
    decay = after / ratio * scale / alpha
    own = unroll(visited, alpha, ratio * alpha, decay, (1 - after / ratio) * scale, zeros, ones)
    return replace(own, p=own.p * float(scheduler.init_noise_sigma) * float(alpha[0]))


def _flow(scheduler: Any, eta: float, clipped: bool) -> AffineSampler:
    visited, sigma = _levels(scheduler)
    return euler_steps(visited, 1 - sigma, sigma)


OFF = (False, None)
CLIPPED = TABLE | {"clip_sample", "clip_sample_range"}
DDIM = {
    name: Kind(_ddim, CLIPPED | {"set_alpha_to_one"}, {"thresholding": OFF}, clips=True)
    for name in ("DDIMScheduler", "DDIMParallelScheduler")
}
VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large")
KINDS: dict[str, Kind] = DDIM | {
    name: Kind(_ddpm, CLIPPED, {"thresholding": OFF, "variance_type": VARIANCES}, clips=True)
    for name in ("DDPMScheduler", "DDPMParallelScheduler")
}
KINDS["DPMSolverMultistepScheduler"] = Kind(
    _dpm,
    TABLE | SIGMAS,
    {
        "thresholding": OFF,
        "solver_order": (1, 2, 3),
        "algorithm_type": ("dpmsolver++",),
        "solver_type": ("midpoint",),
        "lower_order_final": (True,),
        "euler_at_final": OFF,
        "final_sigmas_type": ("zero",),
        "lambda_min_clipped": (-float("inf"),),
        "variance_type": (*OFF, *VARIANCES),  # it adds none: only a learned one changes the output
    },
)
KINDS["EulerDiscreteScheduler"] = Kind(_euler, TABLE | SIGMAS, {"final_sigmas_type": ("zero",)})
KINDS["FlowMatchEulerDiscreteScheduler"] = Kind(
    _flow, TABLE | SIGMAS, {"invert_sigmas": OFF, "stochastic_sampling": OFF}
)
