"""Two evaluations side by side: pairs by seed, whatever the order; what cannot be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.cli.main import run_command
from pcm_policy.errors import PcmError
from pcm_policy.files import read_json, to_json
from pcm_policy.measure.paired import compare, read_evaluation


def report(scores: dict[int, float], **changes: Any) -> dict[str, Any]:
    episodes = [{"seed": s, "score": v, "success": v > 0.9} for s, v in scores.items()]
    base = {"task": "pusht", "policy": "p", "solver": {"label": "pcm 2"}, "episodes": episodes}
    return base | changes


@given(st.dictionaries(st.integers(0, 20), st.tuples(*[st.floats(0, 1)] * 2), min_size=2))
def test_pairs_are_those_of_a_loop(pairs: dict[int, tuple[float, float]]) -> None:
    first = report({seed: a for seed, (a, _) in pairs.items()} | {100: 1.0})
    second = report({seed: b for seed, (_, b) in reversed(pairs.items())} | {101: 1.0, 102: 0.0})
    found = compare(first, second)
    off = [b - a for a, b in pairs.values()]
    assert found["pairs"] == len(pairs)
    assert found["left_out"] == 3
    np.testing.assert_allclose(found["score"]["difference"], np.mean(off), atol=1e-12)
    low, high = found["score"]["ci95"]
    assert min(off) - 1e-12 <= low <= high <= max(off) + 1e-12
    assert found["better"] == sum(b > a for a, b in pairs.values())
    assert found["better"] + found["worse"] + found["equal"] == len(pairs)
    won = [float(b > 0.9) - float(a > 0.9) for a, b in pairs.values()]
    np.testing.assert_allclose(found["success"]["difference"], np.mean(won), atol=1e-12)


def test_pairing_makes_the_interval_narrow() -> None:
    """A constant gain over episodes that differ much is certain; unpaired it would not be."""
    scores = dict(enumerate(np.random.default_rng(0).uniform(0, 0.8, 50).tolist()))
    gained = {seed: score + 0.1 for seed, score in scores.items()}
    np.testing.assert_allclose(compare(report(scores), report(gained))["score"]["ci95"], 0.1)


def test_what_an_episode_lacks_is_as_in_its_own_means() -> None:
    """No score: out of the mean. No success: none, or unknown where it is never reported."""
    lost = {"seed": 2, "score": None, "success": None}
    first = report({1: 0.5, 3: 1.0})
    first["episodes"].append(lost)
    found = compare(first, report({1: 0.75, 2: 1.0, 3: 1.0}))
    assert (found["pairs"], found["score"]["pairs"], found["success"]["pairs"]) == (3, 2, 3)
    assert found["score"]["difference"] == 0.125
    assert found["success"]["difference"] == pytest.approx(1 / 3)
    assert (found["better"], found["worse"], found["equal"]) == (1, 0, 1)
    for one in first["episodes"]:
        one["success"] = None
    assert compare(first, first)["success"] is None


def test_what_differs_is_named() -> None:
    one = report({1: 0.5}, weights={"network": "a"}, commit="x")
    other = report({1: 0.5}, weights={"network": "b"}, commit="x", solver={"label": "ddim-16"})
    assert compare(one, other)["differ"] == ["weights", "solver"]


def test_two_tasks_and_no_common_seed_are_refused() -> None:
    with pytest.raises(PcmError, match="one is of task pusht, the other of lift"):
        compare(report({1: 0.5}), report({1: 0.5}, task="lift"))
    with pytest.raises(PcmError, match=r"no seed is in both \(one begins at 1, the other at 2\)"):
        compare(report({1: 0.5}), report({2: 0.5}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"episodes": [{"seed": 1}]}, "score"),
        ({"episodes": None}, "NoneType"),
        ({"episodes": report({1: 0.5})["episodes"] * 2}, "a seed is there twice"),
        ({"solver": "pcm"}, "indices"),
    ],
)
def test_another_file_is_one_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    (tmp_path / "eval.json").write_text(to_json(report({1: 0.5}, **changes)))
    with pytest.raises(PcmError, match=rf"eval\.json: .*{said}.*no eval\.json of pcm-eval"):
        read_evaluation(tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, scores in (("a", {1: 0.5, 2: 1.0}), ("b", {2: 1.0, 1: 0.75, 3: 0.0})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "eval.json").write_text(to_json(report(scores, incomplete="why")))
    words = [str(tmp_path / "a"), str(tmp_path / "b/eval.json"), f"output={tmp_path}/c.json"]
    run_command("eval compare", argv=words)
    said = capsys.readouterr().out
    assert "+0.125 [+0.000, +0.250]" in said
    assert "2 episodes of both: 1 better, 0 worse, 1 equal in score" in said
    assert "1 episodes are in one of the two only" in said
    assert said.count("is incomplete: why") == 2
    assert read_json(tmp_path / "c.json")["score"]["difference"] == 0.125
    with pytest.raises(SystemExit):
        run_command("eval compare", argv=words)  # it replaces nothing
    assert "c.json" in capsys.readouterr().err
