"""Camera encoders against torchvision's layout and a slow rewrite of their arithmetic."""

from typing import Any

import pytest
import torch

from pcm_policy.adopt.clip import tower_weights
from pcm_policy.errors import PcmError
from pcm_policy.networks.camera import CameraEncoder, centre_crop, random_crop
from pcm_policy.networks.clip import TowerConfig, VisionTower
from pcm_policy.networks.resnet import ResNet
from tests.reference_dit import clip_vision, draw_vision
from tests.reference_vision import encode, resnet, resnet_layout


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Norms that are not the identity, and running statistics that are not those of no data."""
    gen = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.ndim == 1 and value.is_floating_point():
            value.copy_(0.5 + torch.rand(value.shape, generator=gen) - 0.4 * ("bias" in name))
    return module.double().eval()


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
@torch.no_grad()
def test_resnet(name: str, norm: str) -> None:
    torch.manual_seed(0)
    net = filled(ResNet(name, norm))
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == resnet_layout(name, norm)
    x = torch.randn(2, 3, 45, 64, dtype=torch.float64)
    expected = resnet(net.state_dict(), x)
    assert expected.shape == (2, 512, 2, 2)
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


def test_batch_norm_keeps_its_statistics_in_training() -> None:
    net = ResNet("resnet18", "batch").train()
    before = {k: v.clone() for k, v in net.state_dict().items() if "running" in k}
    net(torch.rand(2, 3, 40, 40))
    assert all(torch.equal(net.state_dict()[k], v) for k, v in before.items())


@pytest.mark.parametrize(
    ("keypoints", "features", "width"), [(8, 5, 5), (8, 0, 16), (0, 0, 512)], ids=str
)
@torch.no_grad()
def test_features(keypoints: int, features: int, width: int) -> None:
    torch.manual_seed(0)
    size = (70, 101)
    net = filled(CameraEncoder(size, None, (64, 96), "resnet18", "group", keypoints, features))
    if keypoints:
        net.pool.nets.weight *= 8  # type: ignore[union-attr, operator]
    x = torch.randn(3, 3, *size, dtype=torch.float64)
    expected = encode(net.state_dict(), x[:, :, 3:67, 2:98])  # half of 6; of 5, rounded to even
    assert expected.shape == (3, width)
    assert expected.std(0).mean() > 1e-3
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    resized = CameraEncoder(size, (64, 96), None, "resnet18", "group", keypoints, features)
    resized.double().eval().load_state_dict(net.state_dict())
    small = torch.nn.functional.interpolate(x, (64, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(resized(x), encode(net.state_dict(), small), rtol=1e-10, atol=1e-10)


def test_crops() -> None:
    x = torch.arange(7 * 9.0).view(1, 1, 7, 9).expand(500, 3, 7, 9)
    assert torch.equal(centre_crop(x, (4, 5)), x[:, :, 2:6, 2:7])  # 1.5 rounds to 2, as torchvision
    torch.manual_seed(0)
    cut = random_crop(x, (4, 5))
    assert cut.shape == (500, 3, 4, 5)
    corner = cut[:, 0, 0, 0]
    assert torch.equal(cut - corner[:, None, None, None], (x - x[0, 0, 0, 0])[:, :, :4, :5])
    assert set(corner.tolist()) == {9.0 * i + j for i in range(4) for j in range(5)}
    places = torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24], [0.25, 0.79]])
    there = random_crop(x[:3], (4, 5), places)[:, 0, 0, 0]
    assert there.tolist() == [0.0, 9 * 3 + 4.0, 9 * 1 + 3.0]


@pytest.mark.parametrize(("name", "norm"), [("resnet50", "group"), ("resnet18", "layer")])
def test_other_backbones(name: str, norm: str) -> None:
    with pytest.raises(PcmError, match="use resnet18 or resnet34, and group or batch"):
        ResNet(name, norm)


def tower(**changes: Any) -> TowerConfig:
    sizes = {"width": 12, "depth": 2, "heads": 2, "inner": 20, "patch": 8, "positions": 13}
    return TowerConfig(**sizes | changes)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@torch.no_grad()
def test_clips_vision_transformer(activation: str) -> None:
    theirs = draw_vision(0, 12, 8, 12)
    options = (None, (28, 36), "clip", "layer", 0, 0, tower(activation=activation))
    net = CameraEncoder((40, 40), *options).double().eval()
    net.backbone.load_state_dict(tower_weights(theirs, ""))
    x = torch.randn(3, 3, 40, 40, dtype=torch.float64)
    wide = {k: v.double() for k, v in theirs.items()}
    expected = clip_vision(wide, x[:, :, 6:34, 2:38], 2, activation == "quick_gelu")
    torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "size", "message"),
    [
        ({"positions": 14}, (28, 36), "have 12 patches of 8 pixels, the encoder was made for 13"),
        ({}, (40, 40), "have 25 patches"),
        ({"patch": 0}, (28, 36), "vit.patch=0: use a whole number from 1"),
        ({"heads": 5}, (28, 36), "vit.width=12 is no multiple of vit.heads=5"),
        ({"activation": "relu"}, (28, 36), "vit.activation='relu': use quick_gelu or gelu"),
        ({"width": 12.0}, (28, 36), "vit.width=12.0: use a whole number"),
    ],
)
def test_other_vision_transformers(
    changes: dict[str, Any], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(PcmError, match=message):
        VisionTower(tower(**changes), size)
