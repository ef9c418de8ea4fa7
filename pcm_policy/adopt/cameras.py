"""Camera encoders of other projects under our names: a ResNet, its pooling, a linear layer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.sizes import Shapes
from pcm_policy.errors import PcmError
from pcm_policy.networks.resnet import DEPTHS
from pcm_policy.policy.vision import VisionConfig

_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""A ResNet that was cut out as ``nn.Sequential(*children)`` counts its children."""


@dataclass(frozen=True)
class Places:
    """Prefixes of one encoder's parts in a state dict."""

    backbone: str
    counted: bool = True
    pool: str = ""
    out: str = ""
    temperature: str = ""


def robomimic_places(prefix: str) -> Places:
    """Return the places of robomimic's ``VisualCore``: backbone, pooling, flattening, linear."""
    return Places(
        f"{prefix}nets.0.nets.",
        pool=f"{prefix}nets.1.nets.",
        out=f"{prefix}nets.3.",
        temperature=f"{prefix}nets.1.temperature",
    )


def encoder(tensors: Mapping[str, Tensor], places: Places) -> dict[str, Tensor]:
    """Return one encoder's weights under the names of ``CameraEncoder``.

    The softmax's temperature goes into the convolution before it.
    """
    found = {}
    for name, value in tensors.items():
        if name.startswith(places.backbone):
            rest = name.removeprefix(places.backbone)
            child, _, inner = rest.partition(".")
            child = _CHILDREN.get(child, child) if places.counted else child
            found[f"backbone.{child}.{inner}"] = value
        for ours, theirs in (("pool.nets.", places.pool), ("out.", places.out)):
            if theirs and re.fullmatch(re.escape(theirs) + "(weight|bias)", name):
                found[ours + name.removeprefix(theirs)] = value
    if places.temperature in tensors and bool((tensors[places.temperature] != 1).any()):
        for name in ("pool.nets.weight", "pool.nets.bias"):
            found[name] = found[name] / tensors[places.temperature]
    return found


def encoder_options(file: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Read backbone, norm, keypoints and features off the weights of one encoder.

    Args:
        file: for messages.
        weights: from :func:`encoder`.

    Returns:
        Settings of :class:`~pcm_policy.policy.vision.VisionConfig`.

    Raises:
        PcmError: a weight that shows a size is missing or misshapen, or another ResNet.
    """
    shape = Shapes(file, weights, "camera's ResNet")
    shape("backbone.conv1.weight", 4)
    blocks = tuple(shape.count(f"backbone.layer{i}.{{}}.conv1.weight") for i in range(1, 5))
    names = [name for name, depths in DEPTHS.items() if depths == blocks]
    if not names or "backbone.layer1.0.conv3.weight" in weights:
        raise PcmError(f"{file}: a camera's backbone is neither of {', '.join(DEPTHS)}")
    keypoints = shape("pool.nets.weight", 4)[0] if "pool.nets.weight" in weights else 0
    return {
        "backbone": names[0],
        "norm": "batch" if "backbone.bn1.running_mean" in weights else "group",
        "keypoints": keypoints,
        "features": shape("out.weight", 2)[0] if "out.weight" in weights else 0,
    }


def vision_weights(
    config: VisionConfig, encoders: list[dict[str, Tensor]], channels: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Put encoders and image normalisers together.

    Args:
        config: their settings.
        encoders: from :func:`encoder`, one for each camera in order, or a shared one.
        channels: scale and shift, each ``(3,)``, of every camera.
    """
    found = {f"encoders.{i}.{k}": v for i, part in enumerate(encoders) for k, v in part.items()}
    for j, name in enumerate(("scale", "shift")):
        rows = [torch.as_tensor(channels[camera][j]).float() for camera in config.cameras]
        found[name] = torch.stack(rows)
    return found
