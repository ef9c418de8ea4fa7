"""Demonstrations by scripted experts: the same file from any number of workers, kills survived."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from pcm_policy.datasets.journal import Journal
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.errors import PcmError
from pcm_policy.rollout.actors import ExpertActor, World
from pcm_policy.rollout.generate import generate

pytest.importorskip("metaworld")
h5py = pytest.importorskip("h5py")
WORLD = World("metaworld/reach", "pcm_policy/MetaWorld-reach-v3", {"max_episode_steps": 120})
QUICK: dict[str, Any] = {"attempts": 20, "seed": 3, "control_hz": 80.0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("generated") / "demos.hdf5"
    generate(ExpertActor(WORLD, 1), WORLD, path, episodes=4, **QUICK)
    return path


def test_file_is_robomimics_and_says_how_it_was_made(made: Path) -> None:
    with h5py.File(made) as file:
        assert list(file["data"]) == ["demo_0", "demo_1", "demo_2", "demo_3"]
        demo = file["data/demo_0"]
        steps = demo.attrs["num_samples"]
        shapes = {"actions": (steps, 4), "rewards": (steps,), "dones": (steps,)}
        shapes |= {f"{group}/object": (steps, 14) for group in ("obs", "next_obs")}
        assert {name: demo[name].shape for name in shapes} == shapes
        np.testing.assert_array_equal(demo["next_obs/proprio"][:-1], demo["obs/proprio"][1:])
        assert demo["dones"][-1] == 1
        assert demo["rewards"][-1] == 1
        attrs = dict(file["data"].attrs)
    assert attrs["total"] == len(open_demonstrations(made).arrays["action"])
    assert (attrs["task"], attrs["by"], attrs["seed"]) == ("metaworld/reach", "expert", "3")
    assert json.loads(attrs["versions"])["metaworld"] == "3.1.1"
    assert float(attrs["noise"]) > 0
    assert len(json.loads(attrs["seeds"])) == 4
    assert float(attrs["success_rate"]) == round(4 / float(attrs["attempts"]), 4)
    assert json.loads(attrs["env_args"])["env_name"] == WORLD.env_id
    assert not list(made.parent.glob(".*"))  # the journal is gone


def test_demonstrations_differ_in_speed_and_noise(made: Path) -> None:
    buffer = open_demonstrations(made)
    moves = [np.abs(buffer.episode(i)["action"][:5, :3]).max() for i in range(4)]
    assert len(set(np.round(moves, 3))) > 1


def test_replay_reproduces_every_recorded_state(made: Path) -> None:
    buffer = open_demonstrations(made)
    seeds = json.loads(buffer.attrs["seeds"])
    with closing(WORLD.make()) as env:
        for i, seed in enumerate(seeds):
            episode = buffer.episode(i)
            for start in ({"seed": seed}, {"options": {"state": episode["states"][0]}}):
                _, info = env.reset(**start)
                for state, action in zip(episode["states"], episode["action"], strict=True):
                    np.testing.assert_array_equal(info["state"], state)
                    _, _, success, _, info = env.step(action)
                assert success


def test_workers_and_formats_change_nothing(made: Path, tmp_path: Path) -> None:
    generate(ExpertActor(WORLD, 2), WORLD, tmp_path / "demos.hdf5", episodes=4, **QUICK)
    assert (tmp_path / "demos.hdf5").read_bytes() == made.read_bytes()
    generate(ExpertActor(WORLD, 1), WORLD, tmp_path / "demos.zarr", episodes=4, **QUICK)
    first, second = open_demonstrations(made), open_demonstrations(tmp_path / "demos.zarr")
    assert {*first.arrays} - {*second.arrays} == {f"next_obs.{n}" for n in SIZES}
    for name, values in second.arrays.items():
        np.testing.assert_array_equal(values, first.arrays[name])
    assert second.attrs["task"] == "metaworld/reach"


SIZES = ("proprio", "object", "goal")


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in tasks for word in file.read_text().split()]


def test_a_killed_run_goes_on_and_leaves_no_process(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "demos.hdf5"
    words = "generate task=metaworld/reach episodes=4 seed=3 max_steps=120 attempts=20 workers=2"
    command = [sys.executable, "-m", "pcm_policy.cli", "data", *words.split(), f"output={path}"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    journal = tmp_path / ".demos.hdf5.part"
    while running.poll() is None and len(list(journal.glob("0*.npz"))) < 1:
        time.sleep(0.02)
    there = children(running.pid)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert there
    assert not path.exists()
    kept = {file.name: file.stat().st_mtime_ns for file in journal.glob("0*.npz")}
    assert kept
    with pytest.raises(PcmError, match="was begun with seed=3, not 4; repeat that command"):
        Journal.open(path, json.loads((journal / "made.json").read_text()) | {"seed": 4})
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in there) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in there if Path(f"/proc/{pid}").exists()]
    actor = ExpertActor(WORLD, 1)
    ran: list[int] = []

    class Watched(ExpertActor):
        def run(self, seeds: Iterator[int], journal: Journal) -> Iterator[int]:
            for seed in actor.run(seeds, journal):
                ran.append(seed)
                yield seed

    generate(Watched(WORLD, 1), WORLD, path, episodes=4, **QUICK)
    assert not {f"{seed:010d}.npz" for seed in ran} & set(kept)
    assert path.read_bytes() == made.read_bytes()


def test_failures_are_left_out_and_too_many_are_refused(tmp_path: Path) -> None:
    hopeless = World(WORLD.task, WORLD.env_id, {"max_episode_steps": 5})
    path = tmp_path / "demos.hdf5"
    with pytest.raises(PcmError, match="0 of 3 episodes succeeded, 1 were asked for"):
        generate(ExpertActor(hopeless, 1), hopeless, path, episodes=1, **QUICK | {"attempts": 3})
    assert not path.exists()


def _die(seed: int) -> int:
    os._exit(9)


def test_a_dead_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pcm_policy.rollout.actors._episode", _die)
    with pytest.raises(PcmError, match=r"a worker died; unfinished were seeds 3, 4") as caught:
        generate(ExpertActor(WORLD, 2), WORLD, tmp_path / "demos.hdf5", episodes=1, **QUICK)
    assert "\n" not in str(caught.value)


def test_an_existing_file_is_left_alone(made: Path) -> None:
    with pytest.raises(PcmError, match="exists already"):
        generate(ExpertActor(WORLD, 1), WORLD, made, episodes=1, **QUICK)


def test_environments_without_states_are_refused(tmp_path: Path) -> None:
    from pcm_policy.envs.record import record

    with closing(gym.make("CartPole-v1")) as env, pytest.raises(PcmError, match=r"info\['state'\]"):
        record(env, 0, lambda _: np.zeros(1, np.float32))
