"""Demonstrations in shards and by ``launcher=ray``: the file of one process, byte for byte."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.cli import generating
from pcm_policy.cli.compose import compose
from pcm_policy.cli.data import generate_main
from pcm_policy.errors import PcmError
from tests.rollout.test_rollouts import BRIEF
from tests.rollout.test_spread import NoProcesses, elsewhere

pytest.importorskip("pymunk")
pytest.importorskip("h5py")
WORDS = (*BRIEF, "episodes=10", "attempts=24", "failures=true", "device=cpu")
RAY = ("launcher=ray", "ray.episodes=3")


def make(folder: Path, *more: str) -> bytes:
    """Generate ``demos.hdf5`` in a folder; returns its bytes, none where a shard was made."""
    path = folder / "demos.hdf5"
    generate_main(compose("data generate", [*WORDS, f"path={path}", *more]))
    return path.read_bytes() if path.exists() else b""


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make(tmp_path_factory.mktemp("one"))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> NoProcesses:
    fake = NoProcesses()
    monkeypatch.setattr(generating, "require", lambda *_: fake)
    return fake


def test_tasks_are_one_process(ray: NoProcesses, one: bytes, tmp_path: Path) -> None:
    """A policy's tasks are whole blocks of a solve, whatever ``ray.episodes`` says."""
    assert make(tmp_path, *RAY) == one
    assert sorted(ray.ran)[:2] == [(7, 8, 9, 10), (11, 12, 13, 14)]
    assert ray.started == {}


def test_a_driver_goes_on(ray: NoProcesses, one: bytes, tmp_path: Path) -> None:
    ray.dying = (2,)
    with pytest.raises(PcmError, match=r"\(.*\) was lost.*node died unexp.*demos.hdf5.part.*on"):
        make(tmp_path, *RAY)
    done, ray.dying = list(ray.ran), ()
    assert len(done) == 2
    assert make(tmp_path, *RAY) == one
    assert len(set(ray.ran)) == len(ray.ran)


def test_another_version_on_a_machine_is_refused(
    ray: NoProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch, generating, "make_episodes", "gymnasium")
    with pytest.raises(PcmError, match=r"versions.gymnasium=.*, not 0.1 as one of the cluster"):
        make(tmp_path, *RAY)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ((*RAY, "shard=0", "shards=2"), "leave shard and shards out"),
        ((*RAY, "workers=2"), "Ray's processes are the workers"),
        (("shard=0",), "shard is given without shards"),
        (("shard=0", "shards=11"), "11 shards of 10 episodes"),
    ],
)
def test_what_is_refused(
    more: tuple[str, ...], message: str, ray: NoProcesses, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match=message):
        make(tmp_path, *more)
    assert not list(tmp_path.iterdir())
    assert ray.ran == []


def test_shards_are_one_process(
    one: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs blocks of its own; together they have all that the file needs but a remainder."""
    assert make(tmp_path, "shard=1", "shards=2") == b""
    journal = tmp_path / ".demos.hdf5.part"
    assert sorted(int(f.stem) for f in journal.glob("0*")) == [*range(11, 15), 19]
    assert "shard 1 of 2, from shard and shards: 5 of 5 episodes" in capsys.readouterr().out
    assert make(tmp_path, "shard=0", "shards=2") == b""
    assert sorted(int(f.stem) for f in journal.glob("0*")) == [*range(7, 16), 19]
    assert make(tmp_path) == one
    assert not journal.exists()


@given(st.sets(st.integers(5, 60)), st.integers(1, 9))
def test_neighbours_are_put_together(seeds: set[int], size: int) -> None:
    units = list(generating.neighbours(iter(sorted(seeds)), 5, size))
    assert [seed for unit in units for seed in unit] == sorted(seeds)
    assert len({(unit[0] - 5) // size for unit in units}) == len(units)
    for unit in units:
        assert (unit[0] - 5) // size == (unit[-1] - 5) // size


@pytest.mark.slow
def test_a_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.ray_generated", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "equal to one process" in done.stdout, done.stderr[-3000:]
    assert "a worker was killed" in done.stdout
