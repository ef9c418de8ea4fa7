"""Two nodes of torchrun, each in a network of its own with an address of its own."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.nodes import networks, started
from tests.training.small import TRAIN, assert_same, train

RUN = ["train.steps=12", "train.save_every=5", "train.keep=9"]
pytestmark = pytest.mark.slow


def test_two_nodes(demos: Path, tmp_path: Path) -> None:
    """They learn what one process learns; the folder is on a file system that both have."""
    with networks() as names:
        if not names:
            pytest.skip("network namespaces cannot be made here: they need ip and root")
        one = train(demos, tmp_path / "one", *RUN)
        words = ["train", *TRAIN, *RUN, f"dataset.path={demos}", f"output_dir={tmp_path}/two"]
        nodes = [started(name, i, words, subprocess.PIPE) for i, name in enumerate(names)]
        try:
            said = [node.communicate(timeout=240)[1] for node in nodes]
        finally:
            for node in nodes:
                node.kill()
    assert [node.returncode for node in nodes] == [0, 0], "".join(said)[-3000:]
    assert "".join(said).count("training in 2 processes on cpu") == 1
    # Adam divides by small second moments, which magnifies the rounding of the gradient's sum
    assert_same(tmp_path / "two/policy", one, tolerance=2e-4)
