"""Embedding of the diffusion step, shared by all denoising networks."""

import math

import torch
from torch import Tensor

from pcm_policy.errors import PcmError


def sinusoidal_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of ``t`` at ``dim / 2`` frequencies spaced geometrically from 1 to 1e-4.

    The frequencies are ``exp(-i * log(10000) / (dim / 2 - 1))``: both ends are reached, as in
    Diffusion Policy (Chi et al. 2023), whose checkpoints depend on it. The arithmetic is float32,
    like theirs, whatever the network's own type: the caller casts.

    Args:
        t: timesteps, integer or floating, shape (B,).
        dim: even width of the embedding, at least 4.

    Returns:
        float32 tensor of shape (B, dim).
    """
    if dim < 4 or dim % 2:
        raise PcmError(f"the step embedding has width {dim}; use an even number of at least 4")
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angle = t.float()[:, None] * torch.exp(index * -(math.log(10000.0) / (half - 1)))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)
