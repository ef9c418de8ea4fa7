"""What demonstrations refer to lies inside of them, and their sizes are what is stored."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pcm_policy.datasets import trust
from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.doctor.report import summary, validate
from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError
from tests.datasets.test_hdf5 import healthy

h5py = pytest.importorskip("h5py")
USES: list[Callable[[Path], Any]] = [
    summary,
    open_demonstrations,
    lambda path: convert(path, path.parent / "never.zarr"),
]


def refused(path: Path, *words: str, uses: list[Callable[[Path], Any]] | None = None) -> None:
    for use in USES if uses is None else uses:
        with pytest.raises(PcmError) as caught:
            use(path)
        message = str(caught.value)
        assert "\n" not in message
        for word in words:
            assert word in message
    report = validate(path)
    assert not report.ok
    assert not (path.parent / "never.zarr").exists()


def external_storage(file: Any, other: Path) -> None:
    file["data/demo_0/obs"].create_dataset("mine", (9, 1), np.uint8, external=[(str(other), 0, 9)])


def virtual(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout((9, 1), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "x", (9, 1))
    file["data/demo_0/obs"].create_virtual_dataset("mine", layout)


def external_link(file: Any, other: Path) -> None:
    file["data/demo_0/obs/mine"] = h5py.ExternalLink(str(other), "/x")


def external_group(file: Any, other: Path) -> None:
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.ExternalLink(str(other), "/")


def external_mask(file: Any, other: Path) -> None:
    file["mask/train"] = h5py.ExternalLink(str(other), "/x")


@pytest.mark.parametrize(
    "add", [external_storage, virtual, external_link, external_group, external_mask]
)
def test_hdf5_reads_no_other_file(tmp_path: Path, add: Any) -> None:
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["x"] = np.ones((9, 1), np.float32)
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        add(file, tmp_path / "private.h5")
    refused(path, "private.h5", "a file may hold nothing that lies outside of it")


def test_environments_read_no_other_file(tmp_path: Path) -> None:
    from pcm_policy.envs.robosuite_tasks import read_env_args

    with h5py.File(tmp_path / "private.h5", "w") as file:
        file.create_group("x").attrs["env_args"] = "{}"
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["data"] = h5py.ExternalLink(str(tmp_path / "private.h5"), "/x")
    with pytest.raises(PcmError, match=r"is a link to .*private"):
        read_env_args(tmp_path / "a.hdf5")


def test_a_virtual_array_of_the_file_itself_is_read(tmp_path: Path) -> None:
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i, steps in enumerate((9, 8)):
            layout = h5py.VirtualLayout((steps, 3), np.float32)
            layout[:] = h5py.VirtualSource(".", f"data/demo_{i}/obs/state", (steps, 3))
            file[f"data/demo_{i}/obs"].create_virtual_dataset("mine", layout)
    buffer = open_demonstrations(path)
    np.testing.assert_array_equal(buffer.arrays["mine"], buffer.arrays["state"])


@pytest.fixture
def private(tmp_path: Path) -> Path:
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / "0.0").write_bytes(np.ones(6).tobytes())
    return folder


def store(path: Path) -> Path:
    write_replay(path, [{"action": np.ones((3, 2)), "state": np.zeros((3, 2))}])
    return path


@pytest.mark.parametrize("what", ["chunk", "array", "group", "relative", "metadata"])
def test_zarr_folders_read_no_other_file(tmp_path: Path, private: Path, what: str) -> None:
    path = store(tmp_path / "a.zarr")
    victim = {"array": "data/state", "group": "meta"}.get(what, "data/state/0.0")
    target: Path | str = private if what in ("array", "group") else private / "0.0"
    if what == "relative":
        target = "../../../private/0.0"
    if what == "metadata":
        victim = "data/state/.zarray"
    (path / victim).rename(tmp_path / "gone")
    (path / victim).symlink_to(target)
    refused(path, f"is a link to {private}", "outside of a.zarr")


def test_links_inside_and_the_folder_itself_may_be_links(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr")
    (path / "data/state/0.0").rename(path / "data/elsewhere")
    (path / "data/state/0.0").symlink_to("../elsewhere")
    (tmp_path / "link.zarr").symlink_to(path)
    assert open_demonstrations(tmp_path / "link.zarr").n_steps == 3


def test_what_is_neither_file_nor_folder(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr")
    os.mkfifo(path / "data/state/1.0")
    refused(path, "is neither a file nor a folder")


def test_folders_of_lerobot_and_minari(tmp_path: Path, monkeypatch: Any, private: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("minari")
    from tests.datasets.lerobot_folders import folder, table

    path = folder(tmp_path / "lr", {"file-000.parquet": table()})
    (path / "meta/tasks.jsonl").symlink_to(private / "0.0")
    refused(path, "meta/tasks.jsonl: is a link to", uses=[summary, USES[2]])
    out = folder(tmp_path / "out", {"file-000.parquet": table()}, data_path="../x/{a}.parquet")
    refused(out, "has data_path ../x/{a}.parquet, which leads out", uses=[summary, USES[2]])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    convert(store(tmp_path / "a.zarr"), "minari:a-v0")
    file = tmp_path / "minari/a-v0/data/main_data.hdf5"
    file.rename(private / "main.hdf5")
    file.symlink_to(private / "main.hdf5")
    refused(tmp_path / "minari/a-v0", "is a link to", uses=[summary, USES[2]])
    file.unlink()
    (private / "main.hdf5").rename(file)
    with h5py.File(file, "r+") as opened:
        del opened["episode_0/rewards"]
        opened["episode_0/rewards"] = h5py.ExternalLink(str(private / "x.h5"), "/x")
    refused(tmp_path / "minari/a-v0", "x.h5", uses=[summary, USES[2]])


def test_a_snapshot_of_the_hub_is_read(tmp_path: Path) -> None:
    """The hub's cache links every file to the blobs of its repository."""
    repository = tmp_path / "datasets--me--x"
    (repository / "blobs").mkdir(parents=True)
    path = store(repository / "snapshots/abc")
    (path / "data/state/0.0").rename(repository / "blobs/123")
    (path / "data/state/0.0").symlink_to("../../../../blobs/123")
    trust.refuse_links_outside(path)
    assert open_demonstrations(path).n_steps == 3


HUGE = 1 << 42


@pytest.mark.parametrize("what", ["rows", "chunk", "ends"])
def test_zarr_that_declares_more_than_it_stores(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.zarr"
    root = zarr.open_group(path, mode="w", zarr_format=2)
    rows = HUGE if what == "rows" else 3
    chunks = (HUGE if what == "chunk" else 3, 2)
    root.create_array("data/action", shape=(rows, 2), chunks=chunks, dtype="f8")
    ends = root.create_array(
        "meta/episode_ends", shape=(HUGE if what == "ends" else 1,), chunks=(1,), dtype="i8"
    )
    ends[:1] = rows
    refused(path, "says to hold", "are stored")


def test_hdf5_that_declares_more_than_it_stores(tmp_path: Path) -> None:
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for name in ("actions", "obs/state"):
            del file[f"data/demo_0/{name}"]
            file["data/demo_0"].create_dataset(name, (HUGE, 2), np.float32, chunks=(1, 2))
        del file["data/demo_1"]
    refused(path, "says to hold", "are stored", uses=USES[:2])


def test_arrays_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "free_memory", lambda: 5 << 30)
    trust.check_memory(Path("a"), "x", 4 << 30)
    with pytest.raises(ReplayError, match="takes 6442 MB of memory, 5368 MB are free"):
        trust.check_memory(Path("a"), "x", 6 << 30)
    monkeypatch.setattr(trust, "free_memory", lambda: None)
    trust.check_memory(Path("a"), "x", 6 << 30)


def test_real_compression_is_never_refused() -> None:
    """Zeros in Blosc take a few bytes a chunk; 10,000 times less is beyond any codec used here."""
    trust.check_size(Path("a"), "x", 700 << 20, 10_000)
    trust.check_size(Path("a"), "x", 50 << 30, 50 << 20)
    with pytest.raises(ReplayError, match="says to hold"):
        trust.check_size(Path("a"), "x", 50 << 30, 1000)


def test_names_with_control_codes_reach_no_terminal(tmp_path: Path) -> None:
    path = healthy(tmp_path / "a.hdf5")
    with h5py.File(path, "r+") as file:
        for i, steps in enumerate((9, 8)):
            file[f"data/demo_{i}/obs/\x1b[31mred\x07"] = np.ones((steps, 1))
            file[f"data/demo_{i}/\x1b[2Jwhole"] = np.ones(3)
    assert "\x1b" not in summary(path)
    assert "\\x1b[31mred" in summary(path)
    from pcm_policy.datasets.doctor.report import format_report

    assert "\x1b" not in format_report(validate(path))
    with pytest.raises(PcmError) as caught:
        convert(path, tmp_path / "b.zarr")
    assert "\x1b" not in str(caught.value)
