from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pcm_policy.datasets.formats.replay import ReplayBuffer, open_replay
from pcm_policy.datasets.windows import (
    field_keys,
    gather_fields,
    split_episodes,
    window_indices,
)
from pcm_policy.errors import PcmError
from pcm_policy.fields import Field, parse_field


def diffusion_policy_windows(
    lengths: list[int], horizon: int, pad_before: int, pad_after: int, chosen: list[int]
) -> list[list[int]]:
    """Diffusion Policy's create_indices and sample_sequence, step by step."""
    pad_before, pad_after = min(pad_before, horizon - 1), min(pad_after, horizon - 1)
    windows = []
    for episode in chosen:
        start, length = sum(lengths[:episode]), lengths[episode]
        for first in range(-pad_before, length - horizon + pad_after + 1):
            rows = []
            for step in range(first, first + horizon):
                if step < 0:
                    rows.append(start)
                elif step >= length:
                    rows.append(start + length - 1)
                else:
                    rows.append(start + step)
            windows.append(rows)
    return windows


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    horizon=st.integers(1, 7),
    pad_before=st.integers(0, 8),
    pad_after=st.integers(0, 8),
    data=st.data(),
)
def test_windows_are_diffusion_policys(
    lengths: list[int], horizon: int, pad_before: int, pad_after: int, data: st.DataObject
) -> None:
    every = list(range(len(lengths)))
    chosen = data.draw(st.one_of(st.none(), st.lists(st.sampled_from(every), unique=True)))
    found = window_indices(np.cumsum(lengths), horizon, pad_before, pad_after, chosen)
    slow = diffusion_policy_windows(
        lengths, horizon, pad_before, pad_after, every if chosen is None else chosen
    )
    assert found.dtype == np.int64
    assert found.shape == (len(slow), horizon)
    assert found.tolist() == slow


def test_first_and_last_window() -> None:
    rows = window_indices(np.array([4, 10]), 4, 1, 2)
    assert rows[0].tolist() == [0, 0, 1, 2]
    assert rows[3].tolist() == [2, 3, 3, 3]
    assert rows[4].tolist() == [4, 4, 5, 6]
    assert rows[-1].tolist() == [8, 9, 9, 9]


@pytest.mark.parametrize(
    "bad",
    [
        {"horizon": 0},
        {"pad_before": -1},
        {"pad_after": -1},
        {"episodes": [2]},
        {"episodes": [-1]},
    ],
)
def test_windows_refuse(bad: dict[str, Any]) -> None:
    with pytest.raises(PcmError):
        window_indices(np.array([4, 10]), **{"horizon": 4, "pad_before": 1, "pad_after": 1, **bad})


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("keypoint", Field("keypoint")),
        ("state[0:2]", Field("state", 0, 2)),
        ("state[2:]", Field("state", 2)),
        ("robot0_eef-pos[:3]", Field("robot0_eef-pos", 0, 3)),
    ],
)
def test_parse_field(text: str, field: Field) -> None:
    assert parse_field(text) == field


@pytest.mark.parametrize(
    "text", ["", "state[", "state[0]", "state[0:2", "state[-1:2]", "a b", "[0:2]"]
)
def test_parse_field_refuses(text: str) -> None:
    with pytest.raises(PcmError, match=r"expected a key or key\[start:stop\]"):
        parse_field(text)


def make_buffer() -> ReplayBuffer:
    arrays: dict[str, NDArray[Any]] = {
        "keypoint": np.arange(36, dtype=np.float32).reshape(2, 9, 2),
        "state": np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float64),
        "done": np.array([False, True]),
    }
    return ReplayBuffer(arrays, np.array([2]), Path("some.zarr"))


def test_gather_fields() -> None:
    gathered = gather_fields(make_buffer(), ["keypoint", "state[0:2]", "done"])
    assert (gathered.dtype, gathered.shape) == (np.float32, (2, 21))
    np.testing.assert_array_equal(gathered[1], [*range(18, 36), 4, 5, 1])
    assert field_keys(["state[0:2]", "keypoint", "state[2:]"]) == ["state", "keypoint"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], "some.zarr: no fields"),
        (["image"], "some.zarr: field image: no array image; loaded are keypoint, state, done"),
        (["state[1:4]"], r"field state\[1:4\]: state has 3 columns"),
        (["state[2:2]"], r"field state\[2:2\]"),
        (["state[3:]"], r"field state\[3:3\]"),
    ],
)
def test_gather_refuses(fields: list[str], words: str) -> None:
    with pytest.raises(PcmError, match=words):
        gather_fields(make_buffer(), fields)


@given(n=st.integers(1, 50), fraction=st.floats(0, 0.99), seed=st.integers(0, 2**32))
def test_split(n: int, fraction: float, seed: int) -> None:
    train, val = split_episodes(n, fraction, seed)
    assert sorted([*train, *val]) == list(range(n))
    assert train.tolist() == sorted(train)
    assert val.tolist() == sorted(val)
    assert len(train) >= 1
    assert (len(val) > 0) == (fraction > 0 and n > 1)
    again = split_episodes(n, fraction, seed)
    assert (again[0].tolist(), again[1].tolist()) == (train.tolist(), val.tolist())


def test_split_follows_the_seed() -> None:
    assert split_episodes(206, 0.1, 0)[1].tolist() != split_episodes(206, 0.1, 1)[1].tolist()
    assert len(split_episodes(206, 0.1, 0)[1]) == 21


@pytest.mark.parametrize(
    ("n", "fraction", "seed"),
    [(0, 0.1, 0), (5, 1.0, 0), (5, -0.1, 0), (5, float("nan"), 0), (5, 0.1, -1)],
)
def test_split_refuses(n: int, fraction: float, seed: int) -> None:
    with pytest.raises(PcmError, match="split of"):
        split_episodes(n, fraction, seed)


def test_human_windows(human_data: Path) -> None:
    buffer = open_replay(human_data, ["keypoint", "state"])
    obs = gather_fields(buffer, ["keypoint", "state[0:2]"])
    rows = window_indices(buffer.episode_ends, horizon=16, pad_before=1, pad_after=7)
    assert obs.shape == (25650, 20)
    np.testing.assert_array_equal(obs[:, 18:], buffer.arrays["state"][:, :2])
    assert len(rows) == int((buffer.lengths - 16 + 1 + 1 + 7).sum())
