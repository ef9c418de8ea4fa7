"""Weights in shares, one a process, learn what whole ones learn, and leave the same files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.errors import PcmError
from pcm_policy.policy.tensors import load_tensors
from tests.training.small import TRAIN, assert_same, forget, lines, train

RUN = ["train.steps=12", "train.save_every=5", "train.keep=9"]
TOLERANCE = 2e-4
"""As between one process and two: tests/training/test_processes.py."""


def torchrun(module: str, *words: str) -> str:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launch, "-m", module, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output) if "loss" in line]


def shapes(checkpoint: Path) -> dict[str, dict[str, tuple[int, ...]]]:
    return {
        file.name: {k: tuple(v.shape) for k, v in load_tensors(file).items()}
        for file in sorted(checkpoint.glob("*.safetensors"))
    }


@pytest.mark.slow
def test_it_is_the_run_of_one_process(demos: Path, tmp_path: Path) -> None:
    """In two parts a step too; each goes on where the other stopped."""
    one = train(demos, tmp_path / "one", *RUN)
    shutil.copytree(tmp_path / "one", tmp_path / "later")
    forget(tmp_path / "later", 5)
    words = [*TRAIN, *RUN, f"dataset.path={demos}", "fsdp=true"]
    runs = {"shared": [], "parts": ["train.accumulate=2"], "later": ["resume=true"]}
    given = [
        word
        for name, more in runs.items()
        for word in ["train", *words, *more, f"output_dir={tmp_path}/{name}", ";"]
    ]
    said = torchrun("tests.training.many", *given)
    assert f"resuming {tmp_path}/later from step 5" in said
    for name in runs:
        assert_same(tmp_path / name / "policy", one, tolerance=TOLERANCE)
        np.testing.assert_allclose(losses(tmp_path / name), losses(one.parent), rtol=1e-4)
        newest = "checkpoints/step-00000012"
        assert shapes(tmp_path / name / newest) == shapes(tmp_path / "one" / newest)
    forget(tmp_path / "shared", 5)
    found = train(demos, tmp_path / "shared", *RUN, "resume=true")
    assert_same(found, one, tolerance=TOLERANCE)


@pytest.mark.slow
def test_a_process_holds_its_share() -> None:
    said = torchrun("tests.training.held")
    found = [json.loads(line[5:]) for line in said.splitlines() if line.startswith("held ")]
    assert len(found) == 2
    for name, times in (("weights", 1), ("gradients", 1), ("moments", 2), ("average", 1)):
        assert sum(one[name] for one in found) == times * found[0]["all"], name
        assert max(one[name] for one in found) < 0.6 * times * found[0]["all"], name


def test_one_process_has_nobody_to_share_with(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="fsdp=true shares weights among processes"):
        train(tmp_path / "missing", tmp_path / "run", "fsdp=true")
