"""Policies from settings and demonstrations: every action of these can be predicted."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.normalize import NormalizerMode
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.training.demonstrations import Demonstrations
from pcm_policy.training.make import new_policy
from tests.training.small import train

NETWORK = {"width": 8, "depth": 1, "step_embed_dim": 4}


def rows(action: np.ndarray[Any, Any]) -> Demonstrations:
    steps = np.arange(len(action))
    windows = np.zeros((1, 16), np.int64)
    obs = torch.zeros(len(action), 3)
    return Demonstrations(obs, torch.from_numpy(action).float(), windows, windows[:0], steps)


def config(**changes: Any) -> PolicyConfig:
    return PolicyConfig(3, 2, network_options=NETWORK, **changes)


@settings(max_examples=25)
@given(
    st.sampled_from(get_args(NormalizerMode)),
    st.floats(-1e3, 1e3),
    st.floats(1e-2, 1e3),
    st.floats(1, 8),
    st.integers(0, 99),
)
def test_fitted_clipping_leaves_every_action(
    mode: NormalizerMode, centre: float, scale: float, tail: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.normal(size=(40, 2))
    action = centre + scale * np.sign(drawn) * np.abs(drawn) ** tail
    data = rows(action)
    policy = new_policy(config(), data, 0, mode, fit_clip=True)
    clip = policy.config.clip
    assert clip is not None
    reach = float(policy.action_normalizer.normalize(data.action).abs().max())
    assert reach - 1e-4 <= clip <= max(1.0, reach) + 0.02
    if reach > 1.1:
        with pytest.raises(PcmError, match=f"policy.clip=1 cuts off actions.*normalizer={mode}"):
            new_policy(config(clip=1.0), data, 0, mode)
    assert new_policy(config(clip=None), data, 0, mode).config.clip is None
    assert new_policy(config(clip=2 * clip), data, 0, mode).config.clip == 2 * clip


def test_the_usual_clipping_is_one(demos: Path, tmp_path: Path) -> None:
    from pcm_policy.policy.policy import DiffusionPolicy

    found = {}
    for mode in ("minmax", "gaussian"):
        words = ["train.steps=1", f"policy.normalizer={mode}"]
        found[mode] = DiffusionPolicy.from_pretrained(train(demos, tmp_path / mode, *words))
    assert found["minmax"].config.clip == 1.0
    clip = found["gaussian"].config.clip
    assert clip is not None
    assert 1.5 < clip < 5
    with pytest.raises(PcmError, match=r"policy.clip=1 cuts off .* policy.clip=auto is that"):
        train(demos, tmp_path / "x", "train.steps=1", "policy.normalizer=gaussian", "policy.clip=1")


def test_batch_norm_without_statistics_is_refused() -> None:
    cameras = {"image": (48, 48)}
    vision = VisionConfig((1, "image"), cameras, keypoints=2, features=4, norm="batch")
    seeing = PolicyConfig(vision.obs_dim, 2, network_options=NETWORK, vision=vision)
    with pytest.raises(PcmError, match=r"policy.vision.norm=batch keeps the statistics"):
        new_policy(seeing, rows(np.ones((4, 2))), 0)


def test_what_lies_still_is_constant_where_the_task_knows_the_unit() -> None:
    """A simulator's jitter is no signal in metres; who gives no unit is asked for none."""
    rng = np.random.default_rng(0)
    data = rows(rng.normal(size=(40, 2)) * 2e-5)
    data.obs[:, 1] = torch.from_numpy(rng.normal(size=40)).float() * 1e-6
    data.obs[:, 2] = torch.from_numpy(rng.normal(size=40)).float()
    known = new_policy(config(), data, 0, still_range=1e-4)
    assert known.obs_normalizer.scale[:2].tolist() == [1.0, 1.0]
    assert known.obs_normalizer.scale[2] < 2
    unknown = new_policy(config(), data, 0)
    assert unknown.obs_normalizer.scale[1] > 1e5
    for policy in (known, unknown):  # actions have no such setting: they go to a robot
        normal = policy.action_normalizer
        assert (normal.scale > 1e4).all()
        sampled = policy.raw_chunk(torch.randn(5, 16, 2).clamp(-1, 1))
        assert (sampled >= normal.low - 1e-9).all()
        assert (sampled <= normal.high + 1e-9).all()
