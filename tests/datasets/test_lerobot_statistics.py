"""Statistics that are gathered an episode at a time, against those of all rows at once."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats import lerobot_statistics
from pcm_policy.datasets.formats.lerobot_statistics import KEPT, QUANTILES, Statistics
from pcm_policy.datasets.formats.writing import write_replay

pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install '.[convert]'")
SOME = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@given(lengths=SOME, seed=st.integers(0, 2**32 - 1))
def test_as_of_all_rows_together(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(k, 1 + k, (n, 3)) for k, n in enumerate(lengths)]
    found = Statistics.of(parts[0])
    for part in parts[1:]:
        found = found.joined(Statistics.of(part))
    rows, summary = np.concatenate(parts), found.summary()
    assert summary["count"] == [len(rows)]
    for name, expected in {
        "min": rows.min(0),
        "max": rows.max(0),
        "mean": rows.mean(0),
        "std": rows.std(0),
        **{name: np.quantile(rows, q, axis=0) for name, q in QUANTILES.items()},
    }.items():
        np.testing.assert_allclose(summary[name], expected, rtol=1e-9, atol=1e-9)


def test_of_many_rows_some_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quantiles are then those of a sample."""
    monkeypatch.setattr(lerobot_statistics, "KEPT", 500)
    rng = np.random.default_rng(0)
    parts = [rng.uniform(size=(n, 2)) + k for k, n in enumerate((3000, 40, 700, 1, 5000))]
    found = Statistics.of(parts[0])
    for part in parts[1:]:
        found = found.joined(Statistics.of(part))
    assert len(found.some) <= 500
    rows, summary = np.sort(np.concatenate(parts), axis=0), found.summary()
    for name, q in QUANTILES.items():
        for column, value in enumerate(summary[name]):
            rank = np.searchsorted(rows[:, column], value) / len(rows)
            assert abs(rank - q) < 4 * 0.5 / 500**0.5  # of a sample of 500
    assert KEPT == 20_000


def test_images_have_one_value_for_each_colour() -> None:
    frames = np.zeros((4, 6, 8, 3), np.uint8)
    frames[..., 1] = 51
    summary = Statistics.of_images(frames).summary()
    assert {name: np.shape(summary[name]) for name in QUANTILES} == dict.fromkeys(
        QUANTILES, (3, 1, 1)
    )
    np.testing.assert_allclose(np.ravel(summary["q50"]), [0, 0.2, 0])


def test_a_folder_has_them(tmp_path: Path) -> None:
    """Two episodes of different places: the quantiles are of both, not means of each one's."""
    near = np.linspace(0, 1, 101, dtype=np.float32)
    write_replay(tmp_path / "a.zarr", [{"action": near}, {"action": near + 9}])
    convert(tmp_path / "a.zarr", tmp_path / "lr", fps=10)
    known = json.loads((tmp_path / "lr/meta/stats.json").read_text())["action"]
    both = np.concatenate([near, near + 9])
    for name, q in QUANTILES.items():
        np.testing.assert_allclose(known[name], np.quantile(both, q), atol=1e-6)
    assert known["q99"][0] > 9.9  # a mean of the episodes' would be 5.49
