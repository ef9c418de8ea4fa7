"""Fixtures shared by all tests."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from benchmarks.lerobot.side import pythons
from pcm_policy.datasets.formats import registry as formats
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.heads import HEADS
from pcm_policy.measure import exactness
from pcm_policy.networks import NETWORKS
from pcm_policy.rollout.shards import PAIRS
from pcm_policy.runtime import graphs, timing
from pcm_policy.runtime.modes import MODES
from pcm_policy.sampling import search
from pcm_policy.sampling.samplers import SAMPLERS
from pcm_policy.solvers import STEPS
from tests.recordings import remembered

gc.set_threshold(50_000, 20, 20)  # a tenth of the time of the tests went into collecting garbage
settings.register_profile("any machine", deadline=None)  # how fast it is proves nothing
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _recordings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A program that was written as ONNX is not written again, by no process of the run."""
    folder = tmp_path_factory.getbasetemp() / "recordings"
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder of its own in that of the run
        folder = folder.parents[1] / folder.name
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "write_program", remembered(graphs.write_program, folder))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_job() -> Iterator[None]:
    """Tests that run in a job of Slurm or torchrun are no shards of it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (name for pair in PAIRS for name in pair):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _parts_of_ones_own_are_forgotten(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """What a test registers, and the modules that it wrote, are gone when it ends."""
    for registry in (HEADS, MODES, NETWORKS, SAMPLERS, STEPS):
        monkeypatch.setattr(registry, "_parts", dict(registry._parts))
    monkeypatch.setattr(formats, "_ADDED", list(formats._ADDED))
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    written = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        places = [getattr(sys.modules[name], "__file__", None) or ""]
        places += getattr(sys.modules[name], "__path__", ())
        if any(place.startswith(written) for place in places):
            del sys.modules[name]


def brief_cards(patch: pytest.MonkeyPatch) -> None:
    """Let pcm-distill solve few observations for its card.

    What a card says is for tests/measure/test_exactness.py.
    """
    patch.setattr(exactness, "SOLVED_ALONE", 2)
    patch.setattr(exactness, "HALVINGS", 2)


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """pcm-distill makes brief cards and searches few schedules; what is timed warms up once.

    The search is for tests/benchmarks/test_pcm_study.py and tests/heads/test_first_guess.py.
    """
    brief_cards(monkeypatch)
    monkeypatch.setitem(timing.take_turns.__kwdefaults__, "warmup", 1)
    monkeypatch.setattr(search, "DRAWN", 2)
    monkeypatch.setattr(search, "SWEEPS", 1)


@pytest.fixture(scope="session")
def human_data() -> Path:
    """Path of the human Push-T demonstrations, or skip: they are not part of the project."""
    return _given("pusht_cchi_v7_replay.zarr")


@pytest.fixture(scope="session")
def door_data() -> Path:
    """Path of the human demonstrations of Adroit's door, or skip, in the same way."""
    return _given("adroit_door_human.hdf5")


def _given(name: str) -> Path:
    root = os.environ.get("PCM_POLICY_DATA")
    path = Path(root, name) if root else None
    if path is None or not path.exists():
        pytest.skip(f"PCM_POLICY_DATA does not name a folder with {name}")
    return path


@pytest.fixture(
    scope="module",
    params=pythons() or [None],
    ids=lambda python: Path(python or "/no/lerobot/python").parents[1].name,
)
def lerobot_python(request: pytest.FixtureRequest) -> str:
    """Path of the Python of an environment with LeRobot, of each in turn, or skip."""
    python: str | None = request.param
    if python is None:
        pytest.skip("PCM_LEROBOT_PYTHON names no Python that has LeRobot")
    return python


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: no worker waits for the last of them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """Let Python's collector pass over what was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small replay buffer in Push-T's layout, made of smooth random motion."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("demos") / "demos.zarr"

    def episode() -> dict[str, np.ndarray]:
        state = rng.uniform(60, 440, 5) + np.cumsum(rng.normal(0, 4, (40, 5)), axis=0)
        keypoint = (state[:, None, 2:4] + rng.normal(0, 30, (1, 9, 2))).astype(np.float32)
        action = state[:, :2] + 8 * np.gradient(state[:, :2], axis=0)
        return {
            "keypoint": keypoint,
            "state": state.astype(np.float32),
            "action": action.astype(np.float32),
        }

    write_replay(path, [episode() for _ in range(6)])
    return path
