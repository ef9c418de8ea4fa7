"""ResNet-18 and -34 without their last layers: images to feature maps.

Architecture: He et al., "Deep Residual Learning for Image Recognition" (CVPR 2016). Parameter names
and shapes are those of torchvision's ``resnet18`` and ``resnet34``, whose import beside a CPU torch
can fail. ``group`` norm in place of batch norm is Diffusion Policy's choice: averaged weights and
running statistics do not go together.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from pcm_policy.errors import PcmError

DEPTHS: Mapping[str, tuple[int, int, int, int]] = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
}
CHANNELS = 512
"""Channels of the feature map."""
_STRIDE = 32
_PER_GROUP = 16


def map_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the feature map of images of a size."""
    height, width = size
    return -(-height // _STRIDE), -(-width // _STRIDE)


class _KeptBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics stay those it was loaded with, in training too."""

    def train(self, mode: bool = True) -> "_KeptBatchNorm":
        super().train(False)
        return self


_NORMS: Mapping[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(channels // _PER_GROUP, channels),
    "batch": _KeptBatchNorm,
}


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut around both."""

    def __init__(
        self, dim_in: int, dim: int, stride: int, norm: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, dim, 3, stride, padding=1, bias=False)
        self.bn1 = norm(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
        self.bn2 = norm(dim)
        self.downsample: nn.Module | None = None
        if stride != 1 or dim_in != dim:
            self.downsample = nn.Sequential(
                nn.Conv2d(dim_in, dim, 1, stride, bias=False), norm(dim)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        shortcut = x if self.downsample is None else self.downsample(x)
        out: Tensor = (h + shortcut).relu()
        return out


class ResNet(nn.Module):
    """``(B, 3, H, W)`` normalised images to ``(B, 512, ceil(H / 32), ceil(W / 32))`` features.

    Args:
        name: ``resnet18`` or ``resnet34``.
        norm: ``group``, or ``batch`` with the statistics that are loaded.

    Raises:
        PcmError: another name or norm.
    """

    def __init__(self, name: str = "resnet18", norm: str = "group") -> None:
        super().__init__()
        if name not in DEPTHS or norm not in _NORMS:
            raise PcmError(
                f"backbone {name!r} with norm {norm!r}: use {' or '.join(DEPTHS)}, and "
                f"{' or '.join(_NORMS)}"
            )
        make = _NORMS[norm]
        self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
        self.bn1 = make(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        dim_in = 64
        for level, depth in enumerate(DEPTHS[name]):
            dim = 64 << level
            blocks = [_Block(dim_in, dim, 1 if level == 0 else 2, make)]
            blocks += [_Block(dim, dim, 1, make) for _ in range(depth - 1)]
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
            dim_in = dim
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # as torchvision: He et al. 2015, fan out
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map images to their feature maps."""
        h: Tensor = self.maxpool(self.bn1(self.conv1(x)).relu())
        for level in range(1, 5):
            h = getattr(self, f"layer{level}")(h)
        return h
