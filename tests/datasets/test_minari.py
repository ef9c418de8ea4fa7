"""Minari data sets: read as Minari writes them, and written so that Minari opens them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.convert import convert
from pcm_policy.datasets.formats.minari import minari_folder, read_minari
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.errors import PcmError

reason = "minari is not installed: pip install 'pcm_policy[minari]'"
minari = pytest.importorskip("minari", reason=reason)
RNG = np.random.default_rng(0)
LENGTHS = (5, 1, 8)


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


@pytest.fixture
def theirs() -> list[dict[str, Any]]:
    """A data set of Minari's own making: nested observations, infos, seeds, bounds."""
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer

    buffers = []
    for number, steps in enumerate(LENGTHS):
        observations = {
            "state": RNG.normal(size=(steps + 1, 4)),
            "goal": {"place": RNG.normal(size=(steps + 1, 2)).astype(np.float32)},
        }
        buffers.append(
            EpisodeBuffer(
                seed=10 + number,
                observations=observations,
                actions=RNG.uniform(-1, 1, (steps, 3)).astype(np.float32),
                rewards=RNG.normal(size=steps),
                terminations=np.arange(steps) == steps - 1,
                truncations=np.zeros(steps, bool),
                infos={"force": RNG.normal(size=(steps + 1, 2)), "note": ["a"] * (steps + 1)},
            )
        )
    goal = spaces.Dict({"place": spaces.Box(-9, 9, (2,), np.float32)})
    minari.create_dataset_from_buffers(
        "lab/push-v0",
        buffers,
        observation_space=spaces.Dict({"state": spaces.Box(-9, 9, (4,), float), "goal": goal}),
        action_space=spaces.Box(-1, 1, (3,), np.float32),
        author={"someone"},
        description="pushes",
    )
    return [vars(b) for b in buffers]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_read_what_minari_writes(theirs: list[dict[str, Any]], tmp_path: Path) -> None:
    found = convert("minari:lab/push-v0", tmp_path / "a.zarr")
    assert found.source == "minari"
    assert set(found.lost) == {
        "infos/note (no array of numbers with a row a step)",
        "the observation after the last action of every episode",
        "the info of the reset before every episode",
    }
    buffer = open_replay(tmp_path / "a.zarr")
    assert buffer.lengths.tolist() == list(LENGTHS)
    names = {"state", "goal.place", "action", "reward", "terminated", "truncated", "info.force"}
    assert set(buffer.arrays) == names

    def rows(take: Any) -> Any:
        return np.concatenate([take(b)[:n] for b, n in zip(theirs, LENGTHS, strict=True)])

    same = np.testing.assert_array_equal
    same(buffer.arrays["state"], rows(lambda b: b["observations"]["state"]), strict=True)
    place = rows(lambda b: b["observations"]["goal"]["place"])
    same(buffer.arrays["goal.place"], place, strict=True)
    same(buffer.arrays["action"], rows(lambda b: b["actions"]), strict=True)
    same(buffer.arrays["terminated"], rows(lambda b: b["terminations"]), strict=True)
    same(buffer.arrays["info.force"], rows(lambda b: b["infos"]["force"][1:]), strict=True)
    assert found.describe() == convert("minari:lab/push-v0", tmp_path / "b.zarr").describe()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_back_into_minari(theirs: list[dict[str, Any]], tmp_path: Path, root: Path) -> None:
    """Layout, spaces, seeds and description return; the last observation is a copy."""
    convert("minari:lab/push-v0", tmp_path / "a.zarr")
    found = convert(tmp_path / "a.zarr", "minari:lab/again/push-v1")
    assert found.notes == (
        "the last observation of every episode is repeated: Minari wants one more",
    )
    first, second = minari.load_dataset("lab/push-v0"), minari.load_dataset("lab/again/push-v1")
    assert first.observation_space == second.observation_space
    assert first.action_space == second.action_space
    assert second.total_episodes == 3
    assert second.total_steps == sum(LENGTHS)
    assert second.storage.metadata["author"] == {"someone"}
    assert second.storage.metadata["description"] == "pushes"
    for a, b in zip(first.iterate_episodes(), second.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(a.observations["state"][:-1], b.observations["state"][:-1])
        np.testing.assert_array_equal(b.observations["state"][-1], b.observations["state"][-2])
        for key in ("actions", "rewards", "terminations", "truncations"):
            np.testing.assert_array_equal(getattr(a, key), getattr(b, key), strict=True)
    seeds = second.storage.get_episode_metadata(range(3))
    assert [m["seed"] for m in seeds] == [10, 11, 12]
    assert "lab/again/push-v1" in minari.list_local_datasets()


def test_write_what_minari_never_had(tmp_path: Path) -> None:
    episodes = [
        {
            "keypoint": RNG.normal(size=(n, 9, 2)).astype(np.float32),
            "img": RNG.integers(0, 256, (n, 40, 40, 3), np.uint8),
            "action": RNG.normal(size=(n, 2)),
            "flag": RNG.random(n) < 0.5,
            "count": RNG.integers(-9, 9, n),
            "done": np.arange(n) == n - 1,
        }
        for n in LENGTHS
    ]
    write_replay(tmp_path / "a.zarr", episodes, attrs={"recorded": "by hand"})
    found = convert(tmp_path / "a.zarr", "minari:mine-v0")
    assert "no rewards: they are zeros" in found.notes
    dataset = minari.load_dataset("mine-v0")
    assert dataset.observation_space["keypoint"].shape == (9, 2)
    for episode, source in zip(dataset.iterate_episodes(), episodes, strict=True):
        steps = len(source["action"])
        assert len(episode) == steps
        first = {k: np.asarray(v[0]) for k, v in episode.observations.items()}
        assert dataset.observation_space.contains(first)
        np.testing.assert_array_equal(episode.observations["img"][:-1], source["img"])
        assert episode.terminations.tolist() == source["done"].tolist()
        assert not episode.truncations.any()
        assert not episode.rewards.any()
    convert("minari:mine-v0", tmp_path / "b.zarr")
    first, second = open_replay(tmp_path / "a.zarr"), open_replay(tmp_path / "b.zarr")
    assert set(first.arrays) == set(second.arrays)
    for key, values in first.arrays.items():
        np.testing.assert_array_equal(values, second.arrays[key], strict=True)
    assert second.attrs["recorded"] == "by hand"


def test_mistakes(tmp_path: Path, root: Path) -> None:
    write_replay(tmp_path / "a.zarr", [{"state": np.zeros((3, 2))}])
    with pytest.raises(PcmError, match="has no action, which Minari needs: rename one of state"):
        convert(tmp_path / "a.zarr", "minari:a-v0")
    with pytest.raises(PcmError, match=r"minari:a: name it minari:NAME-v0"):
        convert(tmp_path / "a.zarr", "minari:a")
    with pytest.raises(PcmError, match=r"is not at .*: minari download none-v0"):
        convert("minari:none-v0", tmp_path / "b.zarr")
    convert(tmp_path / "a.zarr", "minari:a-v0", rename={"state": "action"})
    with pytest.raises(PcmError, match="exists already"):
        convert(tmp_path / "a.zarr", "minari:a-v0", rename={"state": "action"})
    assert [p.name for p in root.iterdir()] == ["a-v0"]
    file = root / "a-v0/data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(PcmError, match="a-v0: data: cannot be read"):
        convert(root / "a-v0", tmp_path / "b.zarr")


def test_an_environment_that_a_file_names_is_not_imported(tmp_path: Path, root: Path) -> None:
    """Minari makes the environment where a space is missing, by importing its entry point."""
    write_replay(tmp_path / "a.zarr", [{"action": np.zeros((3, 2))}])
    convert(tmp_path / "a.zarr", "minari:a-v0")
    file = minari_folder(Path("minari:a-v0")) / "data/metadata.json"
    metadata = json.loads(file.read_text())
    del metadata["action_space"]
    metadata["env_spec"] = json.dumps({"id": "x-v0", "entry_point": "antigravity:x"})
    file.write_text(json.dumps(metadata))
    with pytest.raises(PcmError, match=r"stores no action_space; .* is not imported here"):
        read_minari(root / "a-v0")
