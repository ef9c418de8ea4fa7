"""Two processes of torchrun on a CPU: what they learn is what one learns."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.training.small import DISTILL, TRAIN, assert_same, distill, forget, lines, train

RUN = ["train.steps=12", "train.save_every=5", "train.keep=9"]
pytestmark = pytest.mark.slow


def torchrun(command: str, *words: str) -> str:
    """Run a command in two processes; returns what it said."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, "-m", "pcm_policy.cli", command, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("training in 2 processes on cpu") == 1, "there must be two of them"
    return done.stderr


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output) if "loss" in line]


def test_training_and_its_resuming(demos: Path, tmp_path: Path) -> None:
    one = train(demos, tmp_path / "one", *RUN)
    words = [*TRAIN, *RUN, f"dataset.path={demos}", f"output_dir={tmp_path}/two"]
    torchrun("train", *words)
    # Adam divides by small second moments, which magnifies the rounding of the gradient's sum
    assert_same(tmp_path / "two/policy", one, tolerance=2e-4)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-4)
    forget(tmp_path / "two", 5)
    assert "from step 5" in torchrun("train", *words, "resume=true")
    assert_same(tmp_path / "two/policy", one, tolerance=2e-4)


def test_distillation_of_the_default_head(demos: Path, tmp_path: Path) -> None:
    """It has a first guess, another method of the head than the one that several processes wrap."""
    base = train(demos, tmp_path / "base", *RUN)
    one = distill(base, demos, tmp_path / "one", *RUN)
    words = [*DISTILL, *RUN, f"policy={base}", f"dataset.path={demos}"]
    torchrun("distill", *words, f"output_dir={tmp_path}/two")
    assert_same(tmp_path / "two/policy", one, tolerance=2e-4)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-3)
