"""PCM heads, by the name that a policy's config gives them."""

from typing import Any

from torch import nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.base import HEADS, Head
from pcm_policy.heads.copy import CopyHead
from pcm_policy.heads.lora import LoraHead
from pcm_policy.heads.window import WindowHead

__all__ = ["HEADS", "CopyHead", "Head", "LoraHead", "WindowHead", "build_head"]


def build_head(
    name: str,
    network: nn.Module,
    steps: int,
    action_dim: int,
    horizon: int,
    cond_dim: int,
    options: dict[str, Any],
) -> Head:
    """Build an untrained head for a base network and a sampler of ``steps`` steps.

    Args:
        name: one of :data:`HEADS`; ``module:Class`` if that module has been imported.
        network: the base network.
        steps: ``N``.
        action_dim: ``Da``.
        horizon: ``T``.
        cond_dim: ``C``.
        options: the head's own.

    Raises:
        PcmError: unknown head name or option.
    """
    kind = HEADS.find(name, import_it=False)
    try:
        return kind(network, steps, action_dim, horizon, cond_dim, **options)
    except TypeError as error:
        raise PcmError(
            f"head {name!r}: {error}; if an earlier version distilled it, run pcm-distill again"
        ) from error
