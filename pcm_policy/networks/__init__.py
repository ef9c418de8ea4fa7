"""Denoising networks, by the name that a policy's config gives them."""

from typing import Any

from torch import nn

from pcm_policy.errors import PcmError
from pcm_policy.networks.mlp import ResidualMLP
from pcm_policy.networks.transformer import DenoisingTransformer
from pcm_policy.networks.unet1d import ConditionalUnet1d

NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": ResidualMLP,
    "unet1d": ConditionalUnet1d,
    "transformer": DenoisingTransformer,
}


def build_network(
    name: str, action_dim: int, horizon: int, cond_dim: int, options: dict[str, Any]
) -> nn.Module:
    """Build a network whose forward maps ``(B, T, Da), (B,), (B, C)`` to ``(B, T, Da)``.

    Raises:
        PcmError: unknown network name or option.
    """
    if name not in NETWORKS:
        raise PcmError(f"unknown network {name!r}: use one of {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](action_dim, horizon, cond_dim, **options)
    except TypeError as error:
        raise PcmError(f"network {name!r}: {error}") from error
