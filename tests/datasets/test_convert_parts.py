"""The parts of a data set are converted each on its own, by any number of processes alike."""

import re
import shutil
from pathlib import Path

import pytest

from pcm_policy.cli.main import run_command
from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.convert_parts import BEGUN
from pcm_policy.datasets.formats.manifest import MANIFEST, verify
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.datasets.open import open_demonstrations
from tests.datasets.test_parts import folder

__all__ = ["folder"]  # the fixture: three parts


def convert_command(words: list[str]) -> None:
    run_command("data convert", argv=words)


def refused(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        convert_command(words)
    assert ended.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def contents(place: Path) -> dict[str, bytes]:
    files = [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


def test_any_number_of_processes_writes_the_same(folder: Path, tmp_path: Path) -> None:
    words = [f"path={folder}", "rename=[action:command]"]
    convert_command([*words, f"target={tmp_path}/one/*.zarr"])
    convert_command([*words, f"target={tmp_path}/two/*.zarr", "processes=2"])
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert BEGUN not in one
    assert verify(tmp_path / "two") == []
    convert(folder / "b.zarr", tmp_path / "b.zarr", rename={"action": "command"})
    assert contents(tmp_path / "b.zarr") == contents(tmp_path / "two/b.zarr")
    whole, found = open_demonstrations(folder), open_demonstrations(tmp_path / "two")
    assert found.episode_ends.tolist() == whole.episode_ends.tolist()
    assert (found.arrays["command"] == whole.arrays["action"]).all()


def test_an_interrupted_one_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"path={folder}", f"target={tmp_path}/to/*.zarr"]
    raw = next(p for p in (folder / "b.zarr").rglob("*") if p.is_file() and p.stat().st_size > 300)
    kept = raw.read_bytes()
    raw.write_bytes(bytes(len(kept)))  # damaged, and of the size in the manifest
    refused(words, r"b\.zarr.*the parts before b\.zarr are in", capsys)
    assert sorted(p.name for p in (tmp_path / "to").iterdir()) == [BEGUN, "a.zarr"]
    raw.write_bytes(kept)
    before = (tmp_path / "to/a.zarr").stat().st_mtime_ns
    refused([*words, "fps=5"], "another conversion", capsys)
    convert_command(words)
    assert "a.zarr is there already" in capsys.readouterr().out
    assert (tmp_path / "to/a.zarr").stat().st_mtime_ns == before
    assert (tmp_path / "to" / MANIFEST).exists()
    assert not (tmp_path / "to" / BEGUN).exists()
    refused(words, "not empty", capsys)


def test_what_cannot_be_is_said_before_any_work(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"path={folder}"]
    for target, said in (
        (f"{tmp_path}/to.zarr", "processes=2: they convert"),
        (f"{tmp_path}/*/to.zarr", "with one [*]"),
        (f"{tmp_path}/to/*-*.zarr", "with one [*]"),
    ):
        refused([*words, f"target={target}", "processes=2"], said, capsys)
    refused([f"path={folder}/a.zarr", f"target={tmp_path}/to/*.zarr"], "pcm-data manifest", capsys)
    part = open_demonstrations(folder / "b.zarr")
    write_replay(folder / "a.zarr.zip", [part.episode(0)])
    run_command("data manifest", argv=[f"path={folder}", "overwrite=true"])
    refused([*words, f"target={tmp_path}/to/*.zarr"], "two parts would be", capsys)
    shutil.rmtree(folder / "a.zarr")
    refused([*words, f"target={tmp_path}/to/*.zarr"], "missing", capsys)
    assert not (tmp_path / "to").exists()
