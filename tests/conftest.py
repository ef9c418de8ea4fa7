"""Fixtures shared by all tests."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pcm_policy.datasets.formats.writing import write_replay


@pytest.fixture(scope="session")
def human_data() -> Path:
    """Path of the human Push-T demonstrations, or skip: they are not part of the project."""
    root = os.environ.get("PCM_POLICY_DATA")
    path = Path(root, "pusht_cchi_v7_replay.zarr") if root else None
    if path is None or not path.exists():
        pytest.skip("PCM_POLICY_DATA does not name a folder with pusht_cchi_v7_replay.zarr")
    return path


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


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
