"""PCM heads, by the name that a policy's config gives them."""

from typing import Any

from torch import nn

from pcm_policy.errors import PcmError
from pcm_policy.heads.copy import CopyHead
from pcm_policy.heads.lora import LoraHead
from pcm_policy.heads.window import WindowHead


def build_head(
    name: str,
    network: nn.Module,
    steps: int,
    action_dim: int,
    horizon: int,
    cond_dim: int,
    options: dict[str, Any],
) -> nn.Module:
    """Build an untrained head for a base network and a sampler of ``steps`` steps.

    Raises:
        PcmError: unknown head name or option.
    """
    try:
        if name == "window":
            return WindowHead(steps, action_dim, horizon, cond_dim, **options)
        if name == "lora":
            return LoraHead(network, **options)
        if name == "copy":
            return CopyHead(network, **options)
    except TypeError as error:
        raise PcmError(
            f"head {name!r}: {error}; if an earlier version distilled it, run pcm-distill again"
        ) from error
    raise PcmError(f"unknown head {name!r}: use window, lora or copy")
