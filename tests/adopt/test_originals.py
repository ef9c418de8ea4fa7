"""Checkpoints made by the originals' own code, compared with the originals' own samplers.

``PCM_LEROBOT_PYTHON`` names Pythons of environments made by ``benchmarks/lerobot/env.py``,
``PCM_DIFFUSION_POLICY_PYTHON`` and ``PCM_ROBOMIMIC_PYTHON`` one in which those two import.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.adopt import read
from pcm_policy.adopt.original import SelfCheck, self_check
from tests.adopt.fixtures import write_lerobot

CHUNK = 1e-9  # normalised units, float64, same condition
MAKE = Path(__file__).parent


def original(variable: str) -> str:
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} does not name a Python in whose environment the original is")
    return python


def make(python: str, script: str, *words: str) -> None:
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # our datasets hide theirs
    done = subprocess.run(
        [python, str(MAKE / script), *words], capture_output=True, text=True, check=False, env=own
    )
    assert done.returncode == 0, done.stderr[-2000:]


def agrees(path: Path, python: str) -> SelfCheck:
    found = self_check(read(path), python)
    if found == "No module named 'gymnasium'":
        pytest.skip("LeRobot's migration code imports gymnasium, which is not in its environment")
    assert isinstance(found, SelfCheck), found
    assert found.chunk < CHUNK
    assert found.passed
    return found


MEAN_STD = {"STATE": "MEAN_STD", "ENV": "MIN_MAX", "ACTION": "MEAN_STD"}


@pytest.mark.parametrize(
    "settings",
    [
        {"noise_scheduler_type": "DDPM", "num_train_timesteps": 20},
        {"noise_scheduler_type": "DDIM", "num_inference_steps": 7, "prediction_type": "sample"},
        {"num_inference_steps": 10, "clip_sample_range": 1.5, "normalization_mapping": MEAN_STD}
        | {"use_film_scale_modulation": False, "kernel_size": 3, "n_action_steps": 5},
        {"cameras": {"observation.image": [96, 96]}, "crop_shape": [84, 84]}
        | {"noise_scheduler_type": "DDPM", "num_train_timesteps": 20},
        {"cameras": {"observation.images.top": [60, 81], "observation.images.wrist": [60, 81]}}
        | {"use_separate_rgb_encoder_per_camera": True, "resize_shape": [48, 64]}
        | {"crop_ratio": 0.9, "noise_scheduler_type": "DDIM", "num_inference_steps": 7},
        {"cameras": {"observation.image_a": [64, 50], "observation.image_b": [64, 50]}}
        | {"use_group_norm": False, "vision_backbone": "resnet34", "num_inference_steps": 3}
        | {"normalization_mapping": MEAN_STD | {"VISUAL": "MIN_MAX"}},
    ],
    ids=["ddpm", "ddim-sample", "ddpm-10", "camera", "two-cameras", "shared-encoder"],
)
def test_trained_by_lerobot(tmp_path: Path, lerobot_python: str, settings: dict[str, Any]) -> None:
    make(lerobot_python, "make_lerobot.py", str(tmp_path / "p"), json.dumps(settings))
    found = agrees(tmp_path / "p", lerobot_python).original
    assert found.split() in (["lerobot", "0.4.4"], ["lerobot", "0.6.1"])


def test_old_layout_through_lerobots_own_migration(tmp_path: Path, lerobot_python: str) -> None:
    write_lerobot(tmp_path / "p", "buffers")
    agrees(tmp_path / "p", lerobot_python)


TWO = {"wrist": [60, 80], "top": [60, 81]}


@pytest.mark.parametrize(
    "settings",
    [
        {"cameras": {"image": [96, 96]}, "num_inference_steps": 20},
        {"cameras": TWO, "ddim": True, "num_inference_steps": 8}
        | {"encoder": {"crop_shape": None, "share_rgb_model": False, "imagenet_norm": False}},
        {"cameras": {"a": [64, 64], "b": [64, 64]}, "num_inference_steps": 3}
        | {"encoder": {"crop_shape": [50, 51], "share_rgb_model": True, "random_crop": False}},
        {"cameras": TWO, "hybrid": True, "policy": {"crop_shape": [45, 60]}}
        | {"num_inference_steps": 20},
        {"cameras": TWO, "hybrid": True, "ddim": True, "num_inference_steps": 8}
        | {"policy": {"crop_shape": None, "obs_encoder_group_norm": False}},
    ],
    ids=["image", "two-cameras", "shared-encoder", "hybrid", "hybrid-ddim"],
)
def test_cameras_of_diffusion_policy(tmp_path: Path, settings: dict[str, Any]) -> None:
    python = original("PCM_DIFFUSION_POLICY_PYTHON")
    words = str(tmp_path / "a.ckpt"), json.dumps(settings)
    make(python, "make_diffusion_policy_images.py", *words)
    agrees(tmp_path / "a.ckpt", python)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ddim": True, "normalize": True},
        {"ema": False},
        {"ddim": True, "cameras": TWO, "crop": [48, 52]},
        {"cameras": {"agentview_image": [64, 64]}},
    ],
    ids=["ddpm", "ddim", "raw", "two-cameras", "camera"],
)
def test_saved_by_robomimic(tmp_path: Path, settings: dict[str, Any]) -> None:
    python = original("PCM_ROBOMIMIC_PYTHON")
    make(python, "make_robomimic.py", str(tmp_path / "model.pth"), json.dumps(settings))
    assert agrees(tmp_path / "model.pth", python).original.startswith("robomimic 0.")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"ddim": True, "num_inference_steps": 8},
        {"prediction_type": "sample"},
        {"transformer": {}},
        {"transformer": {"n_cond_layers": 2, "causal_attn": False}, "ddim": True}
        | {"num_inference_steps": 8},
        {"inpainting": True},
        {"inpainting": True, "transformer": {}, "ddim": True, "num_inference_steps": 8},
        {"inpainting": True, "transformer": {"time_as_cond": False}, "num_inference_steps": 20},
    ],
    ids=[
        "ddpm",
        "ddim",
        "sample",
        "transformer-ddpm",
        "transformer-ddim",
        "inpainting",
        "inpainting-transformer",
        "inpainting-encoder",
    ],
)
def test_saved_by_diffusion_policy(tmp_path: Path, settings: dict[str, Any]) -> None:
    python = original("PCM_DIFFUSION_POLICY_PYTHON")
    make(python, "make_diffusion_policy.py", str(tmp_path / "a.ckpt"), json.dumps(settings))
    agrees(tmp_path / "a.ckpt", python)
