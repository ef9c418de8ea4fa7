"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
import torch


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
