"""Images of diffusion_policy and robomimic; expected features from convolutions written out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcm_policy.adopt import read
from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise
from tests.adopt.fixtures import (
    CROP,
    DA,
    IMAGE_SHAPES,
    TO,
    T,
    camera_weights,
    image_payload,
    robomimic_cameras_payload,
    statistics,
)
from tests.adopt.reference import draw, loop, scheduler
from tests.reference_vision import encode

BATCH = 3
TOLERANCE = 1e-4  # float32, normalised units
MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def observation() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    s = statistics(5, 0)
    state = s["min"] + torch.rand(BATCH, TO, 5, generator=g) * (s["max"] - s["min"])
    found = {"robot_eef": state[..., :3], "agent_pos": state[..., 3:]}
    for name, shape in IMAGE_SHAPES.items():
        if len(shape) == 3:
            coarse = torch.randint(256, (BATCH, TO, 9, 8, 3), generator=g, dtype=torch.uint8)
            found[name] = coarse.repeat_interleave(5, 2).repeat_interleave(5, 3)
    return found


def normalised(hybrid: bool) -> Tensor:
    """What the originals' encoders make of :func:`observation`, each key in its place."""
    s = statistics(5, 0)
    parts = {}
    seed = 0
    for name, value in observation().items():
        if value.dtype != torch.uint8:
            at = slice(0, 3) if name == "robot_eef" else slice(3, 5)
            low, high = s["min"][at], s["max"][at]
            parts[name] = 2 * (value - low) / (high - low) - 1
            continue
        weights = camera_weights(seed)
        x = value.flatten(0, 1).movedim(-1, 1) / 255 * 2 - 1
        if not hybrid:
            weights = {k: v for k, v in weights.items() if k.startswith("backbone.")}
            x = (x - MEAN) / STD
        x = x[:, :, 6 : 6 + CROP[0], 2 : 2 + CROP[1]]
        parts[name] = encode(weights, x).view(BATCH, TO, -1)
        seed += 1
    order = list(IMAGE_SHAPES) if hybrid else ["front", "wrist", "agent_pos", "robot_eef"]
    return torch.cat([parts[name] for name in order], dim=-1)


def saved(path: Path, payload: Any) -> Path:
    torch.save(payload, path)
    return path


@pytest.mark.parametrize("hybrid", [False, True], ids=["image", "hybrid"])
@torch.no_grad()
def test_diffusion_policy(tmp_path: Path, hybrid: bool) -> None:
    payload, network = image_payload(hybrid, num_inference_steps=6)
    imported = read(saved(tmp_path / "latest.ckpt", payload))
    policy, obs = imported.policy(), observation()
    state = ["robot_eef", "agent_pos"] if hybrid else ["agent_pos", "robot_eef"]
    assert policy.config.obs_fields == tuple(state)
    given = {"state": torch.cat([obs[k] for k in state], dim=-1).numpy()}
    given |= {k: v.numpy() for k, v in obs.items() if v.dtype == torch.uint8}
    seen = normalised(hybrid)
    assert seen.std((0, 1)).min() >= 0
    found = policy.condition(policy.observe(given)).view_as(seen)
    torch.testing.assert_close(found, seen, rtol=TOLERANCE, atol=TOLERANCE)
    noise = draw(BATCH, T, DA, 6)
    arguments = dict(payload["cfg"].policy.noise_scheduler)
    del arguments["_target_"]
    chunk = loop(network, scheduler("DDPM", **arguments), 6, seen.flatten(1), noise)
    sample = policy.predict(given, noise=noise).solve.sample
    torch.testing.assert_close(sample, chunk, rtol=0, atol=10 * TOLERANCE)


NET = "obs_encoder.obs_nets.front.nets.0.nets.7.1.conv2.weight"
OUT = "obs_encoder.obs_nets.front.nets.3.weight"
PLAIN = "obs_encoder.key_model_map.wrist.layer4.1.bn2.bias"


@pytest.mark.parametrize(
    ("hybrid", "settings", "edit", "message"),
    [
        (True, {}, lambda s: s.pop(NET), "lacks the layer encoders.1.backbone.layer4.1.conv2"),
        (True, {}, lambda s: s.update({OUT: s[OUT].half()}), "out.weight is torch.float16"),
        (True, {}, lambda s: s.pop("normalizer.params_dict.front.scale"), "lacks its normaliser"),
        (True, {"eval_fixed_crop": False}, None, "crops are at random in evaluation"),
        (True, {"obs_as_global_cond": False}, None, "features are not inpainted"),
        (True, {"crop_shape": [80, 80]}, None, r"crop=\(80, 80\) is larger"),
        (True, {"shape_meta": {"obs": {"a": {"shape": [2, 2]}}}}, None, "expected low_dim"),
        (True, {"more": 1}, None, "policy.more, which is unknown"),
        (False, {}, lambda s: s.pop(PLAIN), "lacks the layer encoders.1.backbone.layer4.1.bn2"),
        (False, {"encoder": {"_target_": "x.Timm"}}, None, "observation encoder 'Timm'"),
        (False, {"encoder": {"resize_shape": [32, 32]}}, None, "images are resized"),
        (False, {"encoder": {"share_rgb_model": True}}, None, "lacks the layer backbone.conv1"),
        (False, {"encoder": {"crop_shape": {"front": [9, 9]}}}, None, "crop_shape="),
    ],
)
def test_what_is_refused(
    tmp_path: Path, hybrid: bool, settings: dict[str, Any], edit: Any, message: str
) -> None:
    payload, _ = image_payload(hybrid, **settings)
    if edit is not None:
        edit(payload["state_dicts"]["ema_model"])
    with pytest.raises(PcmError, match=message) as caught:
        read(saved(tmp_path / "latest.ckpt", payload)).policy()
    assert "\n" not in str(caught.value)


@torch.no_grad()
def test_robomimic(tmp_path: Path) -> None:
    payload, network = robomimic_cameras_payload()
    policy = read(saved(tmp_path / "model.pth", payload)).policy()
    assert policy.config.obs_fields == ("object", "robot0_eef_pos")
    obs = observation()
    state = torch.randn(BATCH, TO, 5)
    features = []
    for seed, name in enumerate(("wrist", "front")):
        x = obs[name].flatten(0, 1).movedim(-1, 1) / 255
        x = x[:, :, 6 : 6 + CROP[0], 2 : 2 + CROP[1]]
        features.append(encode(camera_weights(seed), x).view(BATCH, TO, -1))
    seen = torch.cat([state[..., :3], features[0], state[..., 3:], features[1]], dim=-1)
    given = {"state": state.numpy(), "wrist": obs["wrist"].numpy(), "front": obs["front"].numpy()}
    found = policy.condition(policy.observe(given)).view_as(seen)
    torch.testing.assert_close(found, seen, rtol=TOLERANCE, atol=TOLERANCE)
    noise = Noise(draw(BATCH, T, DA, 5).initial)
    settings = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2"}
    chunk = loop(network, scheduler("DDIM", **settings), 5, seen.flatten(1), noise)
    sample = policy.predict(given, noise=noise).solve.sample
    torch.testing.assert_close(sample, chunk, rtol=0, atol=10 * TOLERANCE)


CORE = "policy.obs_encoder.nets.obs.obs_nets.front."
ODD = {"obs_randomizer_kwargs": {"crop_height": 34, "crop_width": 37}}


@pytest.mark.parametrize(
    ("rgb", "edit", "message"),
    [
        ({}, lambda s: s.pop(f"{CORE}nets.0.nets.5.0.bn1.weight"), "lacks the layer encoders.1"),
        ({}, lambda s: s.pop(f"{CORE}nets.3.bias"), "lacks the layer encoders.1.out.bias"),
        ({"core_class": "ViT"}, None, "core_class='ViT'"),
        ({"obs_randomizer_class": "RotateRandomizer"}, None, "are changed by RotateRandomizer"),
        (ODD, None, "half a pixel"),
    ],
)
def test_cameras_of_robomimic_that_are_refused(
    tmp_path: Path, rgb: dict[str, Any], edit: Any, message: str
) -> None:
    payload, _ = robomimic_cameras_payload(**rgb)
    if edit is not None:
        edit(payload["model"]["ema"])
    with pytest.raises(PcmError, match=message) as caught:
        read(saved(tmp_path / "model.pth", payload)).policy()
    assert "\n" not in str(caught.value)


GIVEN = {"crop_height": CROP[0], "crop_width": CROP[1], "num_crops": 1, "pos_enc": False}


@pytest.mark.parametrize(
    ("kinds", "settings"),
    [
        (["CropRandomizer"], [GIVEN]),
        (["ColorRandomizer", "CropRandomizer"], [{}, GIVEN]),
        (["CropRandomizer", None], [GIVEN, None]),
        (["GaussianNoiseRandomizer", "CropRandomizer", "ColorRandomizer"], [{}, GIVEN, {}]),
    ],
)
def test_lists_of_randomizers(tmp_path: Path, kinds: list[Any], settings: list[Any]) -> None:
    """Imported as the one crop in them: the others return their input in evaluation."""
    alone = {"obs_randomizer_class": "CropRandomizer", "obs_randomizer_kwargs": GIVEN}
    single, _ = robomimic_cameras_payload(**alone)
    listed, _ = robomimic_cameras_payload(
        obs_randomizer_class=kinds, obs_randomizer_kwargs=settings
    )
    one = read(saved(tmp_path / "one.pth", single)).policy()
    two = read(saved(tmp_path / "two.pth", listed)).policy()
    assert one.config.vision == two.config.vision
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("kinds", "settings", "message"),
    [
        (["CropRandomizer", "CropRandomizer"], [GIVEN, GIVEN], "are cropped 2 times"),
        (["CropRandomizer"], [GIVEN, {}], "have 1 randomizers .* settings of 2"),
        (["RotateRandomizer", "CropRandomizer"], [{}, GIVEN], "changed by RotateRandomizer"),
        (["CropRandomizer"], ["wide"], "changed by CropRandomizer wide"),
        (["CropRandomizer"], [GIVEN | {"num_crops": 2}], "changed by CropRandomizer"),
    ],
)
def test_lists_of_randomizers_that_are_refused(
    tmp_path: Path, kinds: Any, settings: Any, message: str
) -> None:
    payload, _ = robomimic_cameras_payload(
        obs_randomizer_class=kinds, obs_randomizer_kwargs=settings
    )
    with pytest.raises(PcmError, match=message) as caught:
        read(saved(tmp_path / "a.pth", payload)).policy()
    assert "\n" not in str(caught.value)
