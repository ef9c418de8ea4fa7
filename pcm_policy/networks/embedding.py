"""Embedding of the diffusion step beside the condition, shared by all denoising networks."""

import math

import torch
from torch import Tensor

from pcm_policy.errors import PcmError


def leading(first: Tensor, second: Tensor) -> torch.Size:
    """Return the common shape of all dimensions but the last, which may be empty."""
    both = torch.broadcast_tensors(first[..., :1], second[..., :1])  # type: ignore[no-untyped-call]
    shape: torch.Size = both[0].shape[:-1]
    return shape


def check_step_width(dim: int) -> None:
    """Raise PcmError for a width that :func:`sinusoidal_embedding` does not have."""
    if dim < 4 or dim % 2:
        raise PcmError(
            f"step_embed_dim={dim}: the step embedding has width {dim}; "
            "use an even number of at least 4"
        )


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of ``t`` at ``dim / 2`` frequencies spaced geometrically from 1 to 1e-4.

    The frequencies are ``exp(-i * log(10000) / (dim / 2 - 1))``: both ends are reached, as in
    Diffusion Policy (Chi et al. 2023), whose checkpoints depend on it. The arithmetic is float32,
    like theirs, whatever the network's own type: the caller casts.

    Args:
        t: timesteps, integer or floating, any shape.
        dim: even width of the embedding, at least 4.

    Returns:
        float32 tensor of the shape of ``t`` and ``dim`` after it.
    """
    check_step_width(dim)
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[..., None] * torch.exp(index * -(math.log(10000.0) / (half - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
