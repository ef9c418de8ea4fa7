"""After 200 steps, one process, two, and two that one goes on from have learnt the same.

The tolerance is what one process is apart from itself where it adds the same gradients in another
order, in two parts (docs/scale.md has the distances of a U-Net).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.small import TRAIN, assert_same, forget, lines, train

RUN = ["train.steps=200", "train.save_every=100", "train.keep=9"]
WEIGHTS, LOSSES = 2e-5, 5e-6
pytestmark = pytest.mark.slow


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output) if "loss" in line]


def assert_agree(one: Path, two: Path) -> None:
    assert_same(one, two, tolerance=WEIGHTS)
    last = "checkpoints/step-00000200"
    assert_same(one.parent / last, two.parent / last, tolerance=WEIGHTS)
    np.testing.assert_allclose(losses(one.parent), losses(two.parent), rtol=LOSSES)


def torchrun(*runs: list[str]) -> None:
    """Do runs one after another in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    words = [word for run in runs for word in [*run, ";"]]
    subprocess.run(
        [*launch, "-m", "tests.training.many", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
    )


def test_one_process_and_two(demos: Path, tmp_path: Path) -> None:
    """Two processes twice are the same bit for bit."""
    one = train(demos, tmp_path / "one", *RUN)
    parts = train(demos, tmp_path / "parts", *RUN, "train.accumulate=2")
    words = ["train", *TRAIN, *RUN, f"dataset.path={demos}"]
    torchrun(*([*words, f"output_dir={tmp_path}/{name}"] for name in ("two", "again")))
    two = tmp_path / "two/policy"
    assert_same(tmp_path / "again/policy", two)
    shutil.copytree(tmp_path / "two", tmp_path / "mixed")
    forget(tmp_path / "mixed", 100)
    mixed = train(demos, tmp_path / "mixed", *RUN, "resume=true")
    for found in (parts, two, mixed):
        assert_agree(found, one)
