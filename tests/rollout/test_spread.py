"""``launcher=ray``: what the driver does by a Ray without processes, and a real one where it is."""

import json
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pcm_policy.cli import spread
from pcm_policy.errors import PcmError
from tests.rollout.test_shards import bits, run

RAY = ("launcher=ray", "ray.episodes=5")


class RayError(Exception):
    """A worker or a machine died."""


class RayTaskError(RayError):
    """A task raised."""

    cause: BaseException


class NoProcesses:
    """Enough of Ray for the driver: tasks run when they are waited for, the latest first.

    Args:
        dying: tasks, by how many ran before, whose process dies for good.
    """

    def __init__(self, dying: tuple[int, ...] = ()) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self.dying, self.ran = dying, list[Any]()
        self.started: dict[str, Any] = {}

    def init(self, **given: Any) -> None:
        self.started = given

    def shutdown(self) -> None:
        self.started = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Resources": {"CPU": 2.0}}, {"Resources": {}}]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def put(self, value: Any) -> Any:
        return value

    def remote(self, **options: Any) -> Any:
        assert options["num_cpus"] == 1

        def wrapped(function: Any) -> Any:
            task = SimpleNamespace(remote=lambda *given: _Later(function, given))
            task.options = lambda **_: task
            return task

        return wrapped

    def wait(self, running: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        assert 1 <= len(running) <= 5
        return running[-num_returns:], running[:-num_returns]

    def get(self, later: "_Later") -> Any:
        if len(self.ran) in self.dying:
            raise RayError("The node died\nunexpectedly")
        self.ran.append(later.given[1])
        try:
            return pickle.loads(pickle.dumps(later.function(*later.given)))
        except PcmError as error:
            failed = RayTaskError()
            failed.cause = error
            raise failed from error


class _Later:
    def __init__(self, function: Any, given: Any) -> None:
        self.function, self.given = function, given


def elsewhere(patch: pytest.MonkeyPatch, module: ModuleType, task: str, package: str) -> None:
    """Let a task say that its machine has version 0.1 of a package."""
    real = getattr(module, task)

    def old(*given: Any) -> dict[str, Any]:
        found: dict[str, Any] = real(*given)
        found["identity"]["versions"][package] = "0.1"
        return found

    patch.setattr(module, task, old)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> NoProcesses:
    fake = NoProcesses()
    monkeypatch.setattr(spread, "require", lambda *_: fake)
    return fake


def test_tasks_are_one_machine(ray: NoProcesses, folder: Path, tmp_path: Path) -> None:
    one = run(folder, tmp_path / "one")
    found = run(folder, tmp_path, *RAY)
    assert bits(found) == bits(one)
    assert found == json.loads((tmp_path / "eval.json").read_text())
    assert sorted(shard.index for shard in ray.ran) == [0, 1, 2, 3, 4]
    assert ray.started == {}


def test_a_driver_goes_on(ray: NoProcesses, folder: Path, tmp_path: Path) -> None:
    """Every retry of one task failed: the others' episodes are there and not run again."""
    ray.dying = (3,)
    with pytest.raises(PcmError, match=r"shard \d of 5 was lost.*node died unexp.*goes on") as lost:
        run(folder, tmp_path, *RAY)
    assert "\n" not in str(lost.value)
    assert not (tmp_path / "eval.json").exists()
    done, ray.dying = list(ray.ran), ()
    with pytest.raises(PcmError, match=r"begun with settings.seed=90, not 91"):
        run(folder, tmp_path, *RAY, "seed=91")
    assert bits(run(folder, tmp_path, *RAY)) == bits(run(folder, tmp_path / "one"))
    assert len(done) == 3
    assert sorted(shard.index for shard in ray.ran) == [0, 1, 2, 3, 4]


def test_a_task_that_fails_says_why(ray: NoProcesses, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match=r"shard 2 of 5: .*seed 102, raised RuntimeError: the arm"):
        run(folder, tmp_path, *RAY, kind="raises")


def test_another_version_on_a_machine_is_refused(
    ray: NoProcesses, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere(monkeypatch, spread, "make_shard", "torch")
    with pytest.raises(PcmError, match=r"versions.torch=.*, not 0.1 as one of the cluster has"):
        run(folder, tmp_path, *RAY)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("shard=0", "shards=2"), "leave shard and shards out"),
        (("video_episodes=[0]",), "film those episodes without launcher=ray"),
        (("threads=3",), "threads=3: no machine of the cluster has more than 2"),
        (("ray.address=nowhere",), "ray.address=nowhere: use HOST:PORT"),
        (("ray.address=127.0.0.1:99999",), "no Ray cluster answers there"),
    ],
)
def test_what_is_refused(
    more: tuple[str, ...], message: str, ray: NoProcesses, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(PcmError, match=message) as caught:
        run(folder, tmp_path, *RAY, *more)
    assert "\n" not in str(caught.value)
    assert ray.ran == []


def test_nothing_listens(ray: NoProcesses, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PcmError, match=f"ray.address={address}: no Ray cluster answers"):
            run(folder, tmp_path, *RAY, f"ray.address={address}")


def test_ray_is_not_needed_for_anything_else(folder: Path, tmp_path: Path) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(PcmError, match=r"launcher=ray needs ray: pip install 'pcm_policy.ray"):
            run(folder, tmp_path, *RAY)


@pytest.mark.slow
def test_a_worker_and_a_raylet_are_killed(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
    done = subprocess.run(
        [sys.executable, "-m", "tests.rollout.ray_killed", str(folder), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "equal to one process" in done.stdout, done.stderr[-3000:]
    assert "a worker was killed" in done.stdout
    assert "the second raylet was killed" in done.stdout
