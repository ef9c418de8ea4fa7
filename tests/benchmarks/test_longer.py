"""Rows of a study over more episodes: blocks are the episodes themselves, pairs by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.study import longer
from benchmarks.study.rows import Played, difference, play
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import flat

NAME = "released/pusht_mlp"
SEED = 40


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained(NAME)


@pytest.fixture
def study(tmp_path: Path, policy: DiffusionPolicy) -> Path:
    """A study's file with two rows of two episodes, and its episodes of one row."""
    solvers = {
        "base 2": {"method": "sequential", "sampler": "ddim", "steps": 2},
        "PCM 1": {"method": "pcm", "rounds": 1},
        "DDIM 1": {"method": "sequential", "sampler": "ddim", "steps": 1},
    }
    rows = [{"name": k, "solver": flat(policy.solver(v))} for k, v in solvers.items()]
    report = {"seed": SEED, "episodes": 2, "rows": rows}
    (tmp_path / "study.json").write_text(json.dumps(report))
    play(policy, policy.solver(solvers["base 2"]), 2, SEED, tmp_path / "episodes")
    return tmp_path


@pytest.mark.usefixtures("brief")
def test_blocks_are_the_episodes_and_go_on(study: Path, policy: DiffusionPolicy) -> None:
    first = {file: file.stat().st_mtime_ns for file in (study / "episodes").iterdir()}
    few = ["--policy", NAME, "--output", str(study), "--episodes", "3"]
    longer.main([*few, "--rows", "PCM 1", "DDIM 1"])
    report = json.loads((study / "longer.json").read_text())
    assert {file: file.stat().st_mtime_ns for file in first} == first  # the study's own block
    assert len(list((study / "episodes").iterdir())) == 3 * 2  # two episodes, and the third
    assert report["base"] == "base 2"
    assert report["weights"]["head"]
    whole = play(policy, policy.solver({"method": "pcm", "rounds": 1}), 3, SEED, study / "at once")
    row = next(row for row in report["rows"] if row["name"] == "PCM 1")
    assert row["score"]["mean"] == pytest.approx(np.mean(whole.scores), abs=1e-4)
    assert row["successes"] == "".join(str(int(s)) for s in whole.successes)
    assert [one["pair"] for one in report["pairs"]] == ["PCM 1 - DDIM 1"]


def test_a_row_that_the_study_has_not_is_an_error(study: Path) -> None:
    with pytest.raises(PcmError, match="no row PCM 7: the study has base 2, PCM 1, DDIM 1"):
        longer.main(["--policy", NAME, "--output", str(study), "--rows", "PCM 7"])


def test_pairs_by_hand() -> None:
    base, ours, few = Played([1, 1], [1, 1]), Played([1, 0.5], [1, 0]), Played([0, 0.25], [0, 0])
    found = {"base": base, "PCM 1": ours, "DDIM 4": few}
    (only,) = longer.pairs(found, "base")
    assert only["pair"] == "PCM 1 - DDIM 4"
    assert only["score"]["difference"] == pytest.approx(0.625)
    assert only["success"] == difference(ours.successes, few.successes)
    lines = longer.rows(found, "base")
    assert lines[1]["score"]["difference"] == pytest.approx(-0.25)
    assert lines[1]["successes"] == "10"
