"""Networks of any kind as the denoiser ``D`` of ``X = F + M D(X)``: images, latents, anything.

Nothing here knows of policies or robots. A sample has any shape ``(B, ...)``; docs/library.md has
examples.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn

from pcm_policy.checks import number, one_of
from pcm_policy.errors import PcmError
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.config import SamplerConfig
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule

Callable2 = Callable[[Tensor, Tensor], Any]
"""``(x (B, ...), t (B,))`` to an output of the shape of ``x``, or something that holds it first."""
Callable3 = Callable[[Tensor, Tensor, Tensor], Any]
"""The same with a condition ``(B, ...)``: class labels ``(B,)``, embeddings, an image."""


class Plain(nn.Module):
    """A network without a condition, ``(x, t) -> output``, as the three-argument one of ``D``.

    Args:
        network: a callable; a module becomes a submodule, so that heads find its weights. It may
            return a tensor, or something whose first entry is one, as models of diffusers do.
    """

    def __init__(self, network: Callable2) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return the output ``(B, ...)``; the condition is not used."""
        return first(self.network(x, t), x.shape)


class Conditional(nn.Module):
    """A network with a condition, ``(x, t, cond) -> output``.

    Args:
        network: as of :class:`Plain`, with the condition as its third argument.
    """

    def __init__(self, network: Callable3) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return the output ``(B, ...)``."""
        return first(self.network(x, t, cond), x.shape)


class Guided(nn.Module):
    """Classifier-free guidance (Ho and Salimans 2022): two calls of the network in one batch.

    The output is ``without + scale * (with - without)`` the condition, as in diffusers. It is part
    of ``D``, so every solver finds the sample of the guided sequential sampler.

    Args:
        network: as of :class:`Conditional`.
        scale: 1 for the condition alone, above it for more of it.
        null: condition of one row that stands for none, ``(...)``; broadcast over the batch.

    Raises:
        PcmError: a scale that is not finite.
    """

    def __init__(self, network: Callable3, scale: float, null: Tensor) -> None:
        super().__init__()
        if not torch.isfinite(torch.tensor(float(scale))):
            raise PcmError(f"guidance scale={scale}: use a finite number; 1 is no guidance")
        self.network, self.scale = network, float(scale)
        self.null: Tensor
        self.register_buffer("null", null, persistent=False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return the guided output ``(B, ...)``."""
        null = self.null.to(cond).expand_as(cond)
        twice = torch.cat([x, x])
        both = self.network(twice, torch.cat([t, t]), torch.cat([cond, null]))
        given, none = first(both, twice.shape).chunk(2)
        return none + self.scale * (given - none)


def first(output: Any, shape: torch.Size) -> Tensor:
    """Return a tensor, or the tensor that an output of diffusers holds first.

    Raises:
        PcmError: it is and holds none, or one of another shape.
    """
    found = output
    if not isinstance(output, Tensor):
        try:
            found = output[0]
        except (TypeError, KeyError, IndexError):
            found = None
    fix = "return a tensor of the shape of x"
    if not isinstance(found, Tensor):
        raise PcmError(f"the network returned {type(output).__name__}: {fix}")
    if found.shape != shape:
        raise PcmError(f"the network returned {tuple(found.shape)} for x {tuple(shape)}: {fix}")
    return found


@dataclass(frozen=True)
class Sampling:
    """Which sampler a network's samples are wanted of, and what the network outputs.

    Attributes:
        sampler: the affine form, float64 on the CPU.
        prediction: what the network outputs.
        clip: predictions of the clean sample are clipped to ``[-clip, clip]``; None leaves them.
        _moved: the same coefficients where a solve has needed them.

    Raises:
        PcmError: an unknown prediction, or a clip that is not a positive number.

    Example:
        >>> from pcm_policy.sampling.samplers import SamplerConfig
        >>> from pcm_policy.sampling.schedules import NoiseSchedule
        >>> s = Sampling.of(NoiseSchedule("linear", 1000), SamplerConfig("ddim", 50), "epsilon")
        >>> noise = Noise(torch.randn(2, 3, 8, 8))
        >>> denoise = s.denoiser(lambda x, t: 0.5 * x, noise)
        >>> denoise(noise.initial[None], slice(0, 1)).shape
        torch.Size([1, 2, 3, 8, 8])
    """

    sampler: AffineSampler
    prediction: PredictionType = "epsilon"
    clip: float | None = None
    _moved: dict[Any, AffineSampler] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the settings."""
        one_of("prediction", self.prediction, get_args(PredictionType))
        if self.clip is not None:
            number("clip", self.clip, above=0)

    @classmethod
    def of(
        cls,
        schedule: NoiseSchedule,
        config: SamplerConfig,
        prediction: PredictionType,
        clip: float | None = None,
    ) -> "Sampling":
        """Return the sampling of this package's own schedules and samplers.

        Raises:
            PcmError: sampler, schedule and prediction do not belong together.
        """
        if schedule.is_flow and prediction in ("epsilon", "v_prediction"):
            raise PcmError(f"prediction={prediction} does not belong to a flow: use flow_velocity")
        if prediction == "flow_velocity" and not schedule.is_flow:
            raise PcmError("prediction=flow_velocity is a flow's: use NoiseSchedule('flow')")
        return cls(build_sampler(schedule, config), prediction, clip)

    @property
    def steps(self) -> int:
        """Number of denoising steps ``N``."""
        return self.sampler.steps

    def denoiser(
        self, network: Callable2 | Callable3, noise: Noise, cond: Tensor | None = None
    ) -> Denoiser:
        """Return the map ``D``, on the device of the noise and in its type.

        Args:
            network: ``(x, t) -> output``, with a condition ``(x, t, cond) -> output``; see
                :class:`Plain`. One that is a :class:`Plain`, :class:`Conditional` or
                :class:`Guided` already stays as it is.
            noise: where the solve starts.
            cond: ``(B, ...)``; None for none.

        Raises:
            PcmError: no noise, or a condition of another batch, or none for a network that takes
                one.
        """
        x = noise.initial
        if len(x) == 0 or not x.is_floating_point():
            raise PcmError(
                f"noise is {x.dtype} of shape {tuple(x.shape)}: give floats, a row or more"
            )
        if cond is not None and len(cond) != len(x):
            raise PcmError(f"cond has {len(cond)} rows and the noise {len(x)}: give as many")
        if cond is None and isinstance(network, Conditional | Guided):
            raise PcmError(f"{type(network).__name__} takes a condition: give cond=(B, ...)")
        if not isinstance(network, Plain | Conditional | Guided):
            network = Plain(network) if cond is None else Conditional(network)  # type: ignore[arg-type]
        cond = x.new_zeros(len(x), 0) if cond is None else cond.to(x.device)
        kind = x.device, x.dtype
        if kind not in self._moved:  # heads know a sampler by its object
            self._moved[kind] = self.sampler.to(*kind)
        sampler = self._moved[kind]
        return Denoiser(network, sampler, cond, self.prediction, self.clip)
