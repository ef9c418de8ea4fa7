"""One run a folder, and none over what another has left."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.training.output import occupied
from tests.training.small import train

HOLD = """
import sys
from pathlib import Path
from pcm_policy.training.output import occupied
with occupied(Path(sys.argv[1]), resume=False):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("resume", ["true", "false"])
def test_two_runs_are_kept_apart(demos: Path, tmp_path: Path, resume: str) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        before = sorted(os.listdir(tmp_path))
        with pytest.raises(PcmError, match=f"another run is using output_dir={tmp_path}"):
            train(demos, tmp_path, "train.steps=1", f"resume={resume}")
        assert sorted(os.listdir(tmp_path)) == before
        other.kill()
    train(demos, tmp_path, "train.steps=1", "resume=true")


@pytest.mark.parametrize("name", ["checkpoints", "policy", "metrics.jsonl"])
def test_what_is_there_is_not_replaced(demos: Path, tmp_path: Path, name: str) -> None:
    kept = tmp_path / name / "file" if name != "metrics.jsonl" else tmp_path / name
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("of another run")
    with pytest.raises(PcmError, match=f"{name} exists: .*choose another output_dir"):
        train(demos, tmp_path, "train.steps=1")
    assert kept.read_text() == "of another run"


def test_a_policy_without_checkpoints_is_not_replaced_by_resuming(
    demos: Path, tmp_path: Path
) -> None:
    """As ``pcm-import`` leaves one."""
    (tmp_path / "policy").mkdir()
    with pytest.raises(PcmError, match="no checkpoint to resume from: choose another output_dir"):
        train(demos, tmp_path, "train.steps=1", "resume=true")


def test_a_second_run_started_after_the_first_is_refused(tmp_path: Path) -> None:
    with occupied(tmp_path, resume=False):
        pass  # it ended before its first checkpoint
    with (
        pytest.raises(PcmError, match="continue it with resume=true"),
        occupied(tmp_path, resume=False),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(PcmError, match="cannot be written"), occupied(file, resume=False):
        pass


@pytest.mark.parametrize("wrong", ["dataset.path=absent.zarr", "task.obs_fields=[absent]"])
def test_a_run_that_is_refused_can_be_started_again(
    demos: Path, tmp_path: Path, wrong: str
) -> None:
    with pytest.raises(PcmError, match="absent"):
        train(demos, tmp_path, "train.steps=1", wrong)
    train(demos, tmp_path, "train.steps=1")
