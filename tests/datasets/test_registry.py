"""A new format is one file outside of the package, and works in every command."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.cli.main import run_command
from pcm_policy.datasets.formats import registry
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.errors import PcmError

MINE = '''
"""Demonstrations as a folder of .npz files, one an episode."""

import numpy as np

from pcm_policy.datasets.formats.base import Format
from pcm_policy.datasets.formats.registry import register
from pcm_policy.datasets.recording import Recording, step_type


class Npz(Format):
    """A folder that ends in .episodes."""

    name = "npz"

    def recognises(self, path):
        return path.suffix == ".episodes"

    def read(self, path, images=()):
        files = sorted(path.glob("*.npz"))
        fields = {name: step_type(values) for name, values in np.load(files[0]).items()}

        def episodes(names):
            for file in files:
                with np.load(file) as arrays:
                    yield {name: arrays[name] for name in names}

        return Recording(path, fields, len(files), episodes)

    def accepts(self, target):
        return target.suffix == ".episodes"

    def write(self, target, recording, options):
        target.mkdir()
        for i, episode in enumerate(recording.read()):
            np.savez(target / f"{i:06d}.npz", **episode)
        return []


register(Npz())
'''


def run_alone(*words: str, cwd: Path) -> str:
    """Run ``pcm-data`` in a process of its own."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{cwd}"}
    program = "from pcm_policy.cli.main import data; data()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_format_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(name: str, *words: str) -> str:
        run_command(f"data {name}", None, list(words))
        return capsys.readouterr().out

    assert len(MINE.strip().splitlines()) < 45
    (tmp_path / "mine.py").write_text(MINE)
    source = tmp_path / "a.episodes"
    source.mkdir()
    for i, steps in enumerate((9, 11)):
        walk = np.cumsum(np.random.default_rng(i).normal(size=(steps, 2)), 0)
        np.savez(source / f"{i}.npz", action=walk, state=walk + 1)
    mine = "formats=[mine]"
    said = run_alone("info", "a.episodes", mine, cwd=tmp_path)
    assert "2 episodes, 20 rows; 9 to 11 steps" in said
    assert "0 errors" in run("validate", "a.episodes", mine)
    assert "npz -> zarr: 2" in run("convert", "a.episodes", "b.zarr", mine)
    assert "zarr -> npz: 2" in run("convert", "b.zarr", "c.episodes", mine)
    buffer = open_replay(tmp_path / "b.zarr")
    assert buffer.lengths.tolist() == [9, 11]
    with np.load(tmp_path / "c.episodes/000001.npz") as back:
        np.testing.assert_array_equal(back["state"], buffer.episode(1)["state"])


def test_formats_of_the_package_are_found_by_their_files() -> None:
    names = {known.name for known in registry.known_formats()}
    assert {"zarr", "robomimic", "lerobot", "minari"} <= names


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(PcmError, match=r"formats=\[nobody\]: cannot be imported .*PYTHONPATH"):
        registry.load_formats(["nobody"])
