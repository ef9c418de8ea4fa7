"""Episodes that are kept one by one while they are made."""

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.datasets.journal import Journal
from pcm_policy.errors import PcmError


@pytest.fixture
def small_disk() -> Iterator[None]:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path, small_disk: None) -> None:
    journal = Journal.open(tmp_path / "a.hdf5", {"by": "test"})
    journal.add(0, {"action": np.ones((3, 2))}, {"note": "kept"})
    with pytest.raises(PcmError, match=r"cannot be written .*free some space and repeat") as caught:
        journal.add(1, {"action": np.ones((50_000, 2))}, {})
    assert "\n" not in str(caught.value)
    assert [journal.outcome(seed) for seed in (0, 1)] == [True, None]
    again = Journal.open(tmp_path / "a.hdf5", {"by": "test"})
    assert again.read(0)[0]["action"].shape == (3, 2)
    assert sorted(p.name for p in again.folder.iterdir()) == ["0000000000.npz", "made.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PcmError, match="cannot be used"):
        Journal.open(tmp_path / "file/a.hdf5", {})


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "a.hdf5", {})
    journal.remove()
    with pytest.raises(PcmError, match="cannot be written"):
        journal.add(0, {"action": np.ones((3, 2))}, {})
    with pytest.raises(PcmError, match="cannot be written"):
        journal.add(1, None, {})
