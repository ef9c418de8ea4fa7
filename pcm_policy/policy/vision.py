"""Observations with cameras: images become features in the observation vector.

Denoiser, heads, solvers and training see an observation as a vector of ``Do`` numbers, with cameras
or without. With cameras the features of the images are part of it, computed once for each solve.
``layout`` gives the order::

    layout  (2, "observation.image", 3)
    vector  | 2 of the state | features of the camera | 3 more of the state |

An observation is given as a dictionary: ``state`` and one entry for each camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.checks import flag
from pcm_policy.errors import PcmError
from pcm_policy.fields import STATE, laid_out
from pcm_policy.networks.camera import CameraEncoder, Size, centre_crop
from pcm_policy.networks.clip import TowerConfig
from pcm_policy.networks.resnet import CHANNELS, map_size

_PIXELS = 10_000  # a config could name any size
_MOST = 100_000
_CAMERAS = 32


@dataclass(frozen=True)
class VisionConfig:
    """How images become features.

    Attributes:
        layout: the observation vector from left to right. A number stands for so many numbers of
            the state, a name for the features of that camera.
        cameras: height and width of every camera's images, in pixels.
        shared: whether one encoder serves all cameras.
        resize: see :class:`~pcm_policy.networks.camera.CameraEncoder`, as all that follow.
        crop: cut out of the middle, in training at random places.
        backbone: ``resnet18`` or ``resnet34``; with ``vit`` ``clip``.
        norm: ``group`` or ``batch``; with ``vit`` ``layer``.
        keypoints: of the spatial softmax; 0 for means.
        features: of the layer after the keypoints; 0 for none.
        vit: sizes of CLIP's vision transformer, which makes the features then: no keypoints.
    """

    layout: tuple[int | str, ...]
    cameras: Mapping[str, Size]
    shared: bool = False
    resize: Size | None = None
    crop: Size | None = None
    backbone: str = "resnet18"
    norm: str = "group"
    keypoints: int = 32
    features: int = 64
    vit: TowerConfig | None = None

    def __post_init__(self) -> None:
        flag("vision.shared", self.shared)
        named = [part for part in self.layout if isinstance(part, str)]
        widths = [part for part in self.layout if not isinstance(part, str)]
        if (
            sorted(named) != sorted(self.cameras)
            or not 0 < len(named) <= _CAMERAS
            or STATE in named
        ):
            raise PcmError(
                f"vision.layout={list(self.layout)} must name every camera of vision.cameras once: "
                f"{list(self.cameras)}, at most {_CAMERAS}; no camera is called {STATE!r}"
            )
        sizes = [self.resize, self.crop, *self.cameras.values()]
        numbers = [n for size in sizes if size is not None for n in size]
        if not all(type(n) is int and 1 <= n <= _PIXELS for n in numbers):
            raise PcmError(f"vision: sizes {sizes} are not heights and widths in pixels")
        counts = [*widths, self.keypoints, self.features]
        if not all(type(n) is int and 0 <= n <= _MOST for n in counts):
            raise PcmError(f"vision: {counts} are not numbers of values, keypoints and features")
        whole = (self.backbone, self.norm, self.keypoints, self.features) == ("clip", "layer", 0, 0)
        if whole != (self.vit is not None):
            raise PcmError(
                "vision.vit goes with backbone=clip, norm=layer, keypoints=0 and features=0: it "
                "makes a camera's features alone"
            )
        for name, size in self.cameras.items():
            before = self.resize or size
            if self.crop is not None and (self.crop[0] > before[0] or self.crop[1] > before[1]):
                raise PcmError(f"vision.crop={self.crop} is larger than {name}'s images {before}")

    @property
    def state_dim(self) -> int:
        """Numbers of the state."""
        return sum(part for part in self.layout if not isinstance(part, str))

    @property
    def feature_dim(self) -> int:
        """``F``, features of one camera."""
        if self.keypoints:
            return self.features or 2 * self.keypoints
        return CHANNELS if self.vit is None else self.vit.width

    @property
    def obs_dim(self) -> int:
        """``Do``, numbers in the observation vector."""
        return self.state_dim + len(self.cameras) * self.feature_dim

    def describe(self) -> str:
        """Return a line about the cameras."""
        names = ", ".join(f"{name} {h} x {w}" for name, (h, w) in self.cameras.items())
        resized = "" if self.resize is None else f", resized to {self.resize[0]} x {self.resize[1]}"
        cut = "" if self.crop is None else f", cropped to {self.crop[0]} x {self.crop[1]}"
        sizes = {map_size(self.crop or self.resize or size) for size in self.cameras.values()}
        maps = " and ".join(f"{h} x {w}" for h, w in sorted(sizes))
        pool = f"{self.keypoints} keypoints" if self.keypoints else "mean features"
        how = f"{self.backbone}, {self.norm} norm, {pool} of maps of {maps}"
        if self.vit is not None:
            how = f"CLIP's vision transformer, {self.vit.width} features of the class token"
        shared = ", one encoder for all" if self.shared and len(self.cameras) > 1 else ""
        return f"{names}{resized}{cut}: {how}{shared}"

    @property
    def state_columns(self) -> list[int]:
        """Places of the state in the observation vector."""
        found: list[int] = []
        at = 0
        for part in self.layout:
            width = self.feature_dim if isinstance(part, str) else part
            found += [] if isinstance(part, str) else range(at, at + width)
            at += width
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "VisionConfig":
        """Rebuild from ``dataclasses.asdict``, as read from JSON."""
        data = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        if len(data) != len(values):
            raise PcmError(f"vision: unknown setting {sorted(set(values) - set(data))[0]!r}")
        data["layout"] = tuple(data["layout"])
        data["cameras"] = {name: _size(size) for name, size in data["cameras"].items()}
        for name in ("resize", "crop"):
            data[name] = _size(data.get(name))
        if data.get("vit") is not None:
            data["vit"] = _tower(data["vit"])
        return cls(**data)


def _size(value: Any) -> Any:
    return value if value is None else tuple(value)


def _tower(values: Any) -> TowerConfig:
    try:
        return TowerConfig(**values)
    except TypeError as error:
        raise PcmError(f"vision.vit: {error}") from error


class Vision(nn.Module):
    """The encoders and image normalisers of a policy with cameras.

    Attributes:
        encoders: one for each camera in the order of ``config.cameras``, or a shared one.
        scale: ``(cameras, 3)``; normalised channel = value in [0, 1] * scale + shift.
        shift: ``(cameras, 3)``.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        sizes = list(config.cameras.values())
        options = (config.resize, config.crop, config.backbone, config.norm)
        width = (config.keypoints, config.features, config.vit)
        fixed = config.keypoints > 0 or config.vit is not None  # made for one size
        if config.shared and fixed and config.crop is None and config.resize is None:
            sizes = list(dict.fromkeys(sizes))
            if len(sizes) > 1:
                raise PcmError(f"vision.shared: images of sizes {sizes} need a crop or resize")
        count = 1 if config.shared else len(sizes)
        self.encoders = nn.ModuleList(
            CameraEncoder(size, *options, *width) for size in sizes[:count]
        )
        self.register_buffer("scale", torch.full((len(config.cameras), 3), 2.0))
        self.register_buffer("shift", torch.full((len(config.cameras), 3), -1.0))

    def forward(
        self, state: Tensor, images: Mapping[str, Tensor], places: Tensor | None = None
    ) -> Tensor:
        """Return the observation vector.

        Args:
            state: ``(B, To, state_dim)`` raw.
            images: ``(B, To, H, W, 3)`` uint8 for every camera.
            places: ``(B, To, cameras, 2)``, of the crops in training; None draws them.

        Returns:
            ``(B, To, Do)``: the state, raw, and the features.
        """
        flat = self.encode(
            {name: image.flatten(0, 1) for name, image in images.items()},
            None if places is None else places.flatten(0, 1),
        )
        return self.join(state, {k: v.view(*state.shape[:2], -1) for k, v in flat.items()})

    def encode(
        self, images: Mapping[str, Tensor], places: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the features of images, which do not depend on what else is encoded.

        Args:
            images: ``(n, H, W, 3)`` uint8 for every camera.
            places: ``(n, cameras, 2)``, of the crops in training; None draws them.

        Returns:
            ``(n, F)`` for every camera.
        """
        names = list(self.config.cameras)
        ready = [self._ready(i, images[name]) for i, name in enumerate(names)]
        if self.config.shared and not self.training and len({x.shape[1:] for x in ready}) == 1:
            found = self.encoders[0](torch.cat(ready)).chunk(len(ready))  # one batch for all
        else:
            found = [
                self.encoders[0 if self.config.shared else i](
                    x, None if places is None else places[:, i]
                )
                for i, x in enumerate(ready)
            ]
        return dict(zip(names, found, strict=True))

    def _ready(self, i: int, image: Tensor) -> Tensor:
        """Normalise a camera's images ``(n, H, W, 3)``: ``(n, 3, h, w)``, channels last in memory.

        What a crop in the middle leaves out is left out first, so that it is never converted.
        """
        crop = self.config.crop
        if crop is not None and self.config.resize is None and not self.training:
            image = centre_crop(image.permute(0, 3, 1, 2), crop).permute(0, 2, 3, 1)
        pixels = image.to(self.scale.dtype) / 255
        return (pixels * self.scale[i] + self.shift[i]).permute(0, 3, 1, 2)

    def join(self, state: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Return the observation vector ``(..., Do)`` of state ``(..., state_dim)`` and features.

        Args:
            state: raw.
            features: ``(..., F)`` of every camera.
        """
        return torch.cat(laid_out(self.config.layout, state, features), dim=-1)
