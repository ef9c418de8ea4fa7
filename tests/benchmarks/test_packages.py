"""The rows of packages are those of the study that is committed."""

from benchmarks.packages import study_rows
from benchmarks.pasted import result
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers import Rounds


def test_the_rows_of_the_committed_study() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    rows = study_rows(policy, result("study/pusht_mlp/study.json"))
    published = result("packages/packages.json")["rows"]
    assert [row["name"] for row in rows] == [row["name"] for row in published]
    found = {row["name"]: row["solver"] for row in rows}
    assert (found["DDPM 100"].sampler.name, found["DDPM 100"].sampler.steps) == ("ddpm", 100)
    three = found["PCM 3"]
    assert (three.method, three.step.shares, three.stop) == ("pcm", (1.0, 1.0), Rounds(3))  # type: ignore[attr-defined]
