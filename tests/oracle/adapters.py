"""The present heads as the former loop called them."""

from collections.abc import Callable

import torch
from torch import Tensor

from pcm_policy.heads import Head
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import Iterate, System


def as_predictor(head: Head) -> Callable[..., Tensor]:
    """Adapt a head to the former loop: every row is in the same round."""

    def predict(
        denoise: Denoiser, forced: Tensor, states: Tensor, k: int, strength: float
    ) -> Tensor:
        return call(head, denoise, forced, states, k, strength)

    predict.nodes = lambda denoise: head.nodes(denoise.sampler)  # type: ignore[attr-defined]
    if hasattr(head, "evaluations"):
        predict.evaluations = head.evaluations  # type: ignore[attr-defined]
    return predict


def on_base(head: Head) -> Callable[..., Tensor]:
    """Adapt a head that adds to given base predictions."""

    def predict(denoise: Denoiser, forced: Tensor, states: Tensor, k: int, base: Tensor) -> Tensor:
        return call(head, denoise, forced, states, k, 1.0, base)

    return predict


def call(
    head: Head,
    denoise: Denoiser,
    forced: Tensor,
    states: Tensor,
    k: int | Tensor,
    share: float,
    base: Tensor | None = None,
) -> Tensor:
    """Call a head with what the noise gives and the states before the last."""
    s = System(denoise, Noise(forced[0]), torch.cat([forced, forced[-1:]]))
    X = torch.cat([states, states[-1:]])
    at = k if isinstance(k, Tensor) else torch.full((X.shape[1],), k, device=X.device)
    found: Tensor = head(s, Iterate.trained(X, at), share, base)
    return found
