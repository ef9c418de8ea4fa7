"""From one camera's images to features: resize, crop, ResNet, keypoints; or CLIP in their place.

The keypoints are those of Finn et al., "Deep Spatial Autoencoders" (ICRA 2016), as robomimic,
Diffusion Policy and LeRobot use them: of every map the mean position under its softmax.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pcm_policy.networks.clip import TowerConfig, VisionTower
from pcm_policy.networks.resnet import CHANNELS, ResNet, map_size

Size = tuple[int, int]
"""Height and width in pixels."""


class SpatialSoftmax(nn.Module):
    """``(B, 512, h, w)`` feature maps to ``(B, 2 K)``: x and y, in [-1, 1], of K keypoints.

    Args:
        keypoints: K.
        size: height and width of the maps.
    """

    grid: Tensor

    def __init__(self, keypoints: int, size: Size) -> None:
        super().__init__()
        self.nets = nn.Conv2d(CHANNELS, keypoints, 1)
        rows, columns = (np.linspace(-1.0, 1.0, n) for n in size)
        x, y = np.meshgrid(columns, rows)
        grid = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()
        self.register_buffer("grid", grid, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Return the keypoints, side by side."""
        share = self.nets(features).flatten(2).softmax(-1)
        found: Tensor = share @ self.grid
        return found.flatten(1)


class CameraEncoder(nn.Module):
    """``(B, 3, H, W)`` normalised images to ``(B, F)`` features.

    Args:
        size: height and width of the images.
        resize: what they are brought to first; None leaves them.
        crop: what is cut out then: the centre, in training a random place; None for all.
        backbone: ``resnet18`` or ``resnet34``; anything with ``vit``.
        norm: ``group`` or ``batch``; anything with ``vit``.
        keypoints: of the spatial softmax; 0: the mean of every feature map instead.
        features: ``F``, width of a linear layer after the keypoints; 0 for none. A ReLU follows the
            keypoints or the layer, none follows means.
        vit: sizes of a vision transformer that takes the ResNet's place, with ``keypoints`` 0.
    """

    def __init__(
        self,
        size: Size,
        resize: Size | None,
        crop: Size | None,
        backbone: str,
        norm: str,
        keypoints: int,
        features: int,
        vit: TowerConfig | None = None,
    ) -> None:
        super().__init__()
        self.resize, self.crop, self.keypoints = resize, crop, keypoints
        size = crop or resize or size
        self.backbone: nn.Module
        if vit is None:
            self.backbone = ResNet(backbone, norm)
        else:
            self.backbone = VisionTower(vit, size)
        self.pool: nn.Module | None = None
        self.out: nn.Module | None = None
        if keypoints:
            self.pool = SpatialSoftmax(keypoints, map_size(size))
            self.out = nn.Linear(2 * keypoints, features) if features else None

    def forward(self, x: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the features; ``places`` as for :func:`random_crop`."""
        if self.resize is not None:  # as torchvision.transforms.Resize
            x = interpolate(x, self.resize, mode="bilinear", antialias=True)
        if self.crop is not None:
            x = random_crop(x, self.crop, places) if self.training else centre_crop(x, self.crop)
        h: Tensor = self.backbone(x)
        if self.pool is None:
            return h.mean((2, 3))
        h = self.pool(h)
        return (h if self.out is None else self.out(h)).relu()


def centre_crop(x: Tensor, size: Size) -> Tensor:
    """Cut ``size`` out of the middle of ``(B, C, H, W)``; halves round as torchvision's do."""
    (height, width), (h, w) = x.shape[2:], size
    top, left = round((height - h) / 2), round((width - w) / 2)
    return x[:, :, top : top + h, left : left + w]


def random_crop(x: Tensor, size: Size, places: Tensor | None = None) -> Tensor:
    """Cut ``size`` out of ``(B, C, H, W)``, at a place of its own of each image.

    Args:
        x: images.
        size: of the crop.
        places: ``(B, 2)`` in [0, 1), from the uppermost and leftmost place to the last; None draws
            them.
    """
    (height, width), (h, w) = x.shape[2:], size
    places = torch.rand(len(x), 2, device=x.device) if places is None else places
    spare = places.new_tensor([height - h, width - w])
    corners = (places * (spare + 1)).long().unsqueeze(-1).unbind(1)
    rows = corners[0] + torch.arange(h, device=x.device)
    columns = corners[1] + torch.arange(w, device=x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    return x[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
