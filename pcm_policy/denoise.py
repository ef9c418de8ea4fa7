"""From network outputs to clean chunks: the map ``D`` of ``X = F + M D(X)``.

Shapes: ``n`` states of the trajectory, ``B`` batch, ``T`` horizon, ``Da`` action dimensions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.samplers import AffineSampler

PredictionType = Literal["epsilon", "sample", "v_prediction"]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x (B, T, Da), t (B,), cond (B, C)) -> (B, T, Da)``."""


def to_clean(
    output: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor, prediction: PredictionType
) -> Tensor:
    """Convert a network output at ``x = alpha clean + sigma noise`` to the clean chunk.

    ``v_prediction`` is Salimans and Ho 2022, ``v = alpha noise - sigma clean``.
    """
    if prediction == "epsilon":
        return (x - sigma * output) / alpha
    if prediction == "sample":
        return output
    if prediction == "v_prediction":
        return alpha * x - sigma * output
    raise PcmError(f"unknown prediction type {prediction!r}: use one of {get_args(PredictionType)}")


def training_target(
    clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor, prediction: PredictionType
) -> Tensor:
    """Return what the network is trained to output at ``alpha clean + sigma noise``."""
    if prediction == "epsilon":
        return noise
    if prediction == "sample":
        return clean
    if prediction == "v_prediction":
        return alpha * noise - sigma * clean
    raise PcmError(f"unknown prediction type {prediction!r}: use one of {get_args(PredictionType)}")


@dataclass(frozen=True)
class Denoiser:
    """``D``: the clean chunks that a network predicts at a slice of the trajectory's states.

    Attributes:
        network: the base network.
        sampler: supplies times, signal levels and the clipping rule.
        cond: ``(B, C)`` conditioning, shared by all states.
        prediction: what the network outputs.
        clip: clean chunks are clipped to ``[-clip, clip]``; None leaves them alone.
    """

    network: Network
    sampler: AffineSampler
    cond: Tensor
    prediction: PredictionType = "epsilon"
    clip: float | None = 1.0

    def __call__(self, x: Tensor, nodes: slice) -> Tensor:
        """Evaluate all states of ``x`` in one network call.

        Args:
            x: ``(n, B, T, Da)`` states ``x_j`` for ``j`` in ``nodes``.
            nodes: the ``n`` state indices, within ``0..N-1``.

        Returns:
            ``(n, B, T, Da)`` predictions in which the sampler is affine.
        """
        n, batch = x.shape[:2]
        levels = (n, 1, 1, 1)
        t = self.sampler.timesteps[nodes].repeat_interleave(batch, output_size=n * batch)
        cond = self.cond.expand(n, *self.cond.shape).flatten(0, 1)
        output = self.network(x.flatten(0, 1), t, cond).view_as(x)
        alpha = self.sampler.alpha[nodes].view(levels)
        sigma = self.sampler.sigma[nodes].view(levels)
        clean = to_clean(output, x, alpha, sigma, self.prediction)
        if self.clip is None:
            return clean
        clipped = clean.clamp(-self.clip, self.clip)
        return torch.lerp(clean, clipped, self.sampler.clip_gain[nodes].view(levels))

    def with_network(self, network: Network) -> "Denoiser":
        """Return the same map with other weights."""
        return replace(self, network=network)
