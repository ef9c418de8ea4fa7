"""ResNet, keypoints and crops, written out from a state dict with nothing but convolutions."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}


def resnet_layout(name: str, norm: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's state dict, less ``fc``."""
    shapes: dict[str, tuple[int, ...]] = {}

    def normed(at: str, width: int) -> None:
        shapes.update({f"{at}.weight": (width,), f"{at}.bias": (width,)})
        if norm == "batch":
            shapes.update({f"{at}.running_mean": (width,), f"{at}.running_var": (width,)})
            shapes[f"{at}.num_batches_tracked"] = ()

    shapes["conv1.weight"] = (64, 3, 7, 7)
    normed("bn1", 64)
    before = 64
    for level, depth in enumerate(DEPTHS[name]):
        width = 64 * 2**level
        for i in range(depth):
            at = f"layer{level + 1}.{i}"
            shapes[f"{at}.conv1.weight"] = (width, before, 3, 3)
            normed(f"{at}.bn1", width)
            shapes[f"{at}.conv2.weight"] = (width, width, 3, 3)
            normed(f"{at}.bn2", width)
            if before != width:
                shapes[f"{at}.downsample.0.weight"] = (width, before, 1, 1)
                normed(f"{at}.downsample.1", width)
            before = width
    return shapes


def resnet(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """``(B, 3, H, W)`` to ``(B, 512, h, w)``, from torchvision's names."""

    def norm(at: str, h: Tensor) -> Tensor:
        weight, bias = weights[f"{at}.weight"], weights[f"{at}.bias"]
        if f"{at}.running_mean" not in weights:
            groups = h.reshape(len(h), len(weight) // 16, -1)
            mean, var = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
            h = ((groups - mean) / (var + 1e-5).sqrt()).view_as(h)
        else:
            mean, var = weights[f"{at}.running_mean"], weights[f"{at}.running_var"]
            h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return h * weight[:, None, None] + bias[:, None, None]

    h = F.conv2d(x, weights["conv1.weight"], stride=2, padding=3)
    h = F.max_pool2d(norm("bn1", h).clamp(min=0), 3, 2, 1)
    blocks = sorted({name.rsplit(".", 2)[0] for name in weights if name.endswith("conv2.weight")})
    for at in blocks:
        stride = 2 if f"{at}.downsample.0.weight" in weights else 1
        inner = F.conv2d(h, weights[f"{at}.conv1.weight"], stride=stride, padding=1)
        inner = norm(f"{at}.bn1", inner).clamp(min=0)
        inner = norm(f"{at}.bn2", F.conv2d(inner, weights[f"{at}.conv2.weight"], padding=1))
        if stride == 2:
            h = norm(
                f"{at}.downsample.1", F.conv2d(h, weights[f"{at}.downsample.0.weight"], stride=2)
            )
        h = (h + inner).clamp(min=0)
    return h


def keypoints(maps: Tensor) -> Tensor:
    """``(B, K, h, w)`` to ``(B, 2 K)``: mean column and row under each map's softmax."""
    height, width = maps.shape[2:]
    share = maps.exp() / maps.exp().sum((2, 3), keepdim=True)
    x, y = (torch.linspace(-1, 1, n, dtype=maps.dtype) for n in (width, height))
    found = torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], dim=-1)
    return found.flatten(1)


def encode(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Cropped, normalised images to features, from the names of ``CameraEncoder``."""
    inner = {k.removeprefix("backbone."): v for k, v in weights.items() if "backbone." in k}
    maps = resnet(inner, x)
    if "pool.nets.weight" not in weights:
        return maps.flatten(2).mean(-1)
    maps = torch.einsum("kc,bchw->bkhw", weights["pool.nets.weight"][:, :, 0, 0], maps)
    h = keypoints(maps + weights["pool.nets.bias"][:, None, None])
    if "out.weight" in weights:
        h = h @ weights["out.weight"].T + weights["out.bias"]
    return h.clamp(min=0)
