"""Lift with two cameras: demonstrated, trained on and rolled out, a few steps of each."""

import ctypes.util
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.cli import data as cli_data
from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.datasets.formats.robomimic import open_robomimic
from pcm_policy.datasets.frames import open_frames
from pcm_policy.policy.policy import DiffusionPolicy

if importlib.util.find_spec("robosuite") is None:
    pytest.skip("robosuite is not installed", allow_module_level=True)
if ctypes.util.find_library("EGL") is None:
    pytest.skip("cameras draw through EGL, which is not installed", allow_module_level=True)

CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")


@pytest.mark.slow
def test_two_cameras_from_expert_to_episode(tmp_path: Path) -> None:
    file = tmp_path / "lift.hdf5"
    words = ["task=lift_image", "episodes=1", "workers=1", f"output={file}"]
    words += ["max_steps=20", "failures=true"]  # what is drawn takes most of the time
    cli_data.generate_main(compose("data generate", words))
    buffer = open_robomimic(file, list(CAMERAS))
    steps = buffer.n_steps
    for name in CAMERAS:
        frames = open_frames(file, name, (84, 84), tmp_path / "frames")
        np.testing.assert_array_equal(frames.take(np.arange(steps)), buffer.arrays[name])
        assert buffer.arrays[name].std() > 10  # something is drawn
    words = ["task=lift_image", f"dataset.path={file}", f"output_dir={tmp_path}/run", "device=cpu"]
    words += ["train.steps=2", "train.batch=4", "train.warmup=1", "policy.vision.resize=[48,48]"]
    words += ["policy.max_excess=100.0"]  # one demonstration spans little
    words += ["policy.vision.crop=[40,40]", "network.options.width=32", "network.options.depth=1"]
    folder = cli_train.train_main(compose("train", words))
    policy = DiffusionPolicy.from_pretrained(folder)
    assert policy.config.obs_dim == 9 + 2 * 64
    words = ["task=lift_image", f"policy={folder}", "episodes=1", "max_steps=9", "num_envs=1"]
    words += ["solve_batch=1", "latency_calls=1", f"output_dir={tmp_path}/eval", "device=cpu"]
    report = cli_eval.eval_main(compose("eval", words))
    assert report["episodes"][0]["steps"] == 9
    assert report["latency_ms"]["encode"] > 0
