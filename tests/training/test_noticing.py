"""What is said of demonstrations before they are trained on."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.datasets.formats.replay import ReplayBuffer
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.windows import window_indices
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.noticing import (
    coarse_columns,
    nearly_constant_columns,
    short_episodes,
    shortest_episode,
)
from pcm_policy.training.reading import load_demonstrations


def lengths_file(path: Path, lengths: list[int]) -> DatasetConfig:
    rng = np.random.default_rng(0)
    episodes = [{"state": rng.normal(size=(n, 3)), "action": np.ones((n, 2))} for n in lengths]
    write_replay(path, episodes)
    return DatasetConfig(str(path), val_fraction=0.0)


CONFIG = PolicyConfig(3, 2, obs_fields=("state",))


def test_episodes_that_give_no_window_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = lengths_file(tmp_path / "a.zarr", [20, 7, 3, 5, 20, 1, 7])
    note = "5 of 7 episodes have fewer than 8 steps and give no window"
    data = load_demonstrations(dataset, CONFIG)
    assert data.notes == (note,)
    assert note in data.describe(dataset)
    assert f"a.zarr: {note}" in capsys.readouterr().err


def test_episodes_all_too_short_are_told_what_would_do(tmp_path: Path) -> None:
    dataset = lengths_file(tmp_path / "a.zarr", [7, 7, 6])
    with pytest.raises(PcmError, match=r"horizon 16: the longest has 7 steps, 8 are needed"):
        load_demonstrations(dataset, CONFIG)


def test_a_held_out_episode_without_a_window_is_said(tmp_path: Path) -> None:
    dataset = lengths_file(tmp_path / "a.zarr", [20, 3])
    for seed in range(9):
        held = DatasetConfig(dataset.path, val_fraction=0.5, val_seed=seed)
        try:
            data = load_demonstrations(held, CONFIG)
        except PcmError:
            continue  # the long one is held out
        assert "no held-out episode gives a window" in data.notes
        return
    raise AssertionError("the short one was never held out")


@settings(max_examples=60)
@given(st.integers(1, 12), st.data())
def test_shortest_episode_is_what_windows_are_cut_from(horizon: int, data: st.DataObject) -> None:
    obs = data.draw(st.integers(1, horizon))
    action = data.draw(st.integers(1, horizon - obs + 1))
    config = PolicyConfig(3, 2, horizon=horizon, obs_steps=obs, action_steps=action)
    least = shortest_episode(config)
    for length in range(1, 16):
        found = window_indices(np.array([length]), horizon, obs - 1, action - 1)
        assert (len(found) > 0) == (length >= least)
        assert (short_episodes(np.array([length]), config) is None) == (length >= least)


def buffer(values: Any) -> ReplayBuffer:
    return ReplayBuffer({"x": values}, np.array([len(values)]), Path("a"))


def test_positions_far_from_their_origin_are_named() -> None:
    rng = np.random.default_rng(0)
    near = rng.uniform(-0.5, 0.5, (480, 2))
    far = near + np.array([5.4e6, 0])
    (line,) = coarse_columns(buffer(far), ["x"])
    assert line.startswith("x, column 0: float32 leaves 2 steps between 5399999.5")
    assert "subtract an origin" in line
    assert coarse_columns(buffer(far), ["x[1:2]"]) == []
    assert coarse_columns(buffer(near), ["x"]) == []
    assert coarse_columns(buffer(far.astype(np.float32)), ["x"]) == []  # as it is stored


@settings(max_examples=60)
@given(st.floats(-1e9, 1e9), st.floats(1e-3, 1e3), st.sampled_from(["f8", "f4", "i8"]))
def test_a_column_is_named_exactly_where_float32_merges_its_values(
    origin: float, width: float, kind: str
) -> None:
    values = (origin + width * np.linspace(0, 1, 400))[:, None].astype(kind)
    merged = 2 * len(np.unique(values.astype(np.float32))) <= len(np.unique(values))
    assert bool(coarse_columns(buffer(values), ["x"])) == (merged and values.min() < values.max())


@given(st.floats(1e-7, 1e3), st.floats(-1, 1))
def test_columns_that_hardly_change_are_named(width: float, origin: float) -> None:
    values = np.stack([origin + width * np.linspace(0, 1, 9), np.full(9, origin)], axis=1)
    found = nearly_constant_columns(buffer(values), ["x"])
    assert len(found) == (np.ptp(values[:, 0]) < 1e-4)
    assert all(line.startswith("x, column 0: hardly changes") for line in found)
