"""Denoising networks, by the name that a policy's config gives them."""

from typing import Any

from torch import nn

from pcm_policy.errors import PcmError
from pcm_policy.networks.dit import DiffusionTransformer
from pcm_policy.networks.mlp import ResidualMLP
from pcm_policy.networks.transformer import DenoisingTransformer
from pcm_policy.networks.unet1d import ConditionalUnet1d
from pcm_policy.registry import Registry

NETWORKS: Registry[type[nn.Module]] = Registry("network", nn.Module)
NETWORKS.add("mlp")(ResidualMLP)
NETWORKS.add("unet1d")(ConditionalUnet1d)
NETWORKS.add("transformer")(DenoisingTransformer)
NETWORKS.add("dit")(DiffusionTransformer)


def build_network(
    name: str, action_dim: int, horizon: int, cond_dim: int, options: dict[str, Any]
) -> nn.Module:
    """Build a network whose forward maps ``(B, T, Da), (B,), (B, C)`` to ``(B, T, Da)``.

    Raises:
        PcmError: unknown network name or option.
    """
    kind = NETWORKS.find(name, import_it=False)
    try:
        return kind(action_dim, horizon, cond_dim, **options)
    except TypeError as error:
        raise PcmError(f"network {name!r}: {error}") from error
