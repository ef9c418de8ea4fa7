"""robomimic's files read for training: the same windows and values as its own SequenceDataset."""

import itertools
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.datasets.formats.robomimic import open_robomimic
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.windows import gather_fields, window_indices
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.reading import field_widths, load_demonstrations

h5py = pytest.importorskip("h5py")
LENGTHS = {0: 11, 10: 8, 2: 9, 1: 8}  # robomimic refuses episodes that are shorter than a window


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations, written in another order than their numbers, and two filter keys."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("robomimic") / "low_dim.hdf5"
    with h5py.File(path, "w") as made:
        for number, steps in LENGTHS.items():
            demo = made.create_group(f"data/demo_{number}")
            demo.attrs["num_samples"] = steps
            demo["actions"] = rng.uniform(-1, 1, (steps, 7))
            demo["rewards"], demo["dones"] = np.zeros(steps), np.arange(steps) == steps - 1
            demo["states"] = rng.normal(size=(steps, 4))
            for group, name, width in itertools.product(
                ("obs", "next_obs"), ("object", "eef"), (3,)
            ):
                demo[f"{group}/{name}"] = rng.normal(size=(steps, width))
        made["data"].attrs["total"] = sum(LENGTHS.values())
        env_args = {"env_name": "Lift", "type": 1, "env_kwargs": {}}
        made["data"].attrs["env_args"] = json.dumps(env_args)
        made["mask/train"] = np.array([b"demo_10", b"demo_0", b"demo_2"])
        made["mask/valid"] = np.array(["demo_1"], dtype=h5py.string_dtype())
        made["mask/absent"] = np.array([b"demo_3"])
        made["mask/nobody"] = np.array([], dtype="S6")
    return path


@pytest.fixture(scope="module")
def sequence_dataset() -> Any:
    pytest.importorskip("robomimic")
    from robomimic.utils import obs_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"low_dim": ["object", "eef"], "rgb": [], "depth": [], "scan": []}}
    )
    return SequenceDataset


@pytest.mark.parametrize("filter_key", [None, "train", "valid"])
@pytest.mark.parametrize("cached", [None, "low_dim"])
def test_windows_and_values_are_sequence_datasets(
    file: Path, sequence_dataset: Any, filter_key: str | None, cached: str | None
) -> None:
    buffer = open_robomimic(file, ["object", "eef", "action"], filter_key)
    compared = 0
    for stack, length, pad_stack, pad_length in itertools.product(
        (1, 2, 3), (1, 4, 6), (True, False), (True, False)
    ):
        theirs = sequence_dataset(
            hdf5_path=str(file),
            obs_keys=("object", "eef"),
            dataset_keys=("actions",),
            frame_stack=stack,
            seq_length=length,
            pad_frame_stack=pad_stack,
            pad_seq_length=pad_length,
            hdf5_cache_mode=cached,
            hdf5_use_swmr=False,
            filter_by_attribute=filter_key,
            load_next_obs=False,
        )
        rows = window_indices(
            buffer.episode_ends,
            stack - 1 + length,
            (stack - 1) * pad_stack,
            (length - 1) * pad_length,
        )
        assert len(theirs) == len(rows)
        for i, window in enumerate(rows):
            item = theirs[i]
            pairs = [(buffer.arrays["action"], item["actions"])]
            pairs += [(buffer.arrays[key], item["obs"][key]) for key in ("object", "eef")]
            for ours, its in pairs:  # what it caches, it has in float32
                np.testing.assert_array_equal(ours[window].astype(its.dtype), its)
            compared += 1
        theirs.close_and_delete_hdf5_handle()
    assert compared > 40


def test_training_reads_the_chosen_keys_and_filter_keys(file: Path) -> None:
    config = PolicyConfig(
        4, 7, horizon=4, action_steps=3, obs_fields=("eef", "object[2:3]"), action_field="action"
    )
    data = load_demonstrations(
        DatasetConfig(str(file), filter_key="train", val_filter_key="valid"), config
    )
    buffer = open_robomimic(file)
    starts = dict(zip((0, 1, 2, 10), buffer.starts, strict=True))
    everything = gather_fields(buffer, config.obs_fields)
    rows = np.concatenate([starts[n] + np.arange(LENGTHS[n]) for n in (0, 2, 10)])
    np.testing.assert_array_equal(data.obs[data.train_steps], everything[rows])
    held = np.arange(starts[1], starts[1] + LENGTHS[1])
    np.testing.assert_array_equal(
        np.unique(data.obs[np.unique(data.held_out)], axis=0),
        np.unique(everything[held], axis=0),
    )
    assert not set(data.train.ravel()) & set(data.held_out.ravel())
    windows, held_out = data.windows(DiffusionPolicy(config))
    assert windows.seen.shape == (len(data.train), 8)
    assert len(held_out.chunk) == LENGTHS[1]


@pytest.mark.parametrize(
    ("keys", "filter_key", "message"),
    [
        (["image"], None, "demo_0: image: missing; the file holds actions, dones"),
        (None, "test", "mask/test: missing; the file has absent, nobody, train, valid"),
        (None, "absent", "mask/absent: names demo_3, of which the file has nothing"),
        (None, "nobody", "mask/nobody: names no demonstrations"),
    ],
)
def test_what_is_missing_is_named(
    file: Path, keys: list[str] | None, filter_key: str | None, message: str
) -> None:
    with pytest.raises(PcmError, match=message) as caught:
        open_demonstrations(file, keys, filter_key)
    assert "\n" not in str(caught.value)


def test_filter_keys_are_robomimics_alone(demos: Path) -> None:
    with pytest.raises(PcmError, match="only robomimic's HDF5 has filter keys"):
        open_demonstrations(demos, filter_key="train")


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.hdf5"
    with h5py.File(path, "w") as made:
        for i in range(4):
            made[f"data/demo_{i}/actions"] = np.ones((50, 2), np.float32)
            made[f"data/demo_{i}/obs/eef"] = np.ones((50, 3), np.float32)
            made[f"data/demo_{i}/obs/image"] = np.zeros((50, 200, 200, 3), np.uint8)  # 6 MB
    tracemalloc.start()
    open_robomimic(path, ["action", "eef"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6


def test_the_environments_rate_is_the_policys(file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "a.hdf5"
    copy.write_bytes(file.read_bytes())
    expected: dict[str, float | None] = {"obs_dim": 6, "action_dim": 7, "control_hz": None}
    dataset = DatasetConfig(str(copy))
    assert field_widths(dataset, ["object", "eef"], "actions") == expected
    with h5py.File(copy, "r+") as made:
        env = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
        made["data"].attrs["env_args"] = json.dumps(env)
    assert field_widths(dataset, ["object", "eef"], "actions") == expected | {"control_hz": 20}
