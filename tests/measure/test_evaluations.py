"""One table for every evaluation: with and without the controller, and what was not measured."""

from typing import Any

import pytest

from pcm_policy.measure.evaluations import evaluation, evaluations

OUTCOME = {
    "score": {"mean": 0.9, "ci95": [0.8, 0.95]},
    "success": {"rate": 0.5, "ci95": [0.3, 0.7]},
    "episodes": [{"seed": 1}],
}
PLAIN = {"rounds": 2.0, "nfe": 12.0, "latency_ms": {"p50": 1.0, "p99": 2.0}}
CONTROLLED = {
    "rounds": 3.0,
    "control": {"mode": "async"},
    "miss_rate": 0.25,
    "seams": {"jump": 1.5, "mode_switches": 0.1},
}


def report(made: dict[str, Any], label: str) -> dict[str, Any]:
    return evaluation("released/pusht", "pusht", {"label": label}, OUTCOME, made)


def test_columns_are_those_that_somebody_fills() -> None:
    head, rows = evaluations([report(PLAIN, "pcm 2")])
    assert head[:3] == ["solver", "score [95 %]", "success [95 %]"]
    assert rows == [
        ["pcm 2", "0.900 [0.800, 0.950]", "0.500 [0.300, 0.700]", "2.0", "12.0", "1.00 / 2.00"]
    ]
    both, lines = evaluations([report(PLAIN, "pcm 2"), report(CONTROLLED, "pcm 3")])
    assert set(head) < set(both)
    assert lines[0][both.index("misses")] == lines[1][both.index("NFE")] == ""
    assert lines[1][both.index("misses")] == "25.0%"
    assert all(len(line) == len(both) for line in lines)
    assert evaluations([report(PLAIN, "a")], ["a name"])[1][0][0] == "a name"


def test_nobody_timed_it() -> None:
    made = PLAIN | {"latency_ms": None}
    assert "p50 / p99 ms" not in evaluations([report(made, "pcm 2")])[0]


@pytest.mark.parametrize("why", [None, "an environment failed"])
def test_the_layout_ends_with_the_episodes(why: str | None) -> None:
    found = evaluation("p", "t", {"label": "x"}, OUTCOME, PLAIN, why)
    assert list(found)[-1] == "episodes"
    assert found.get("incomplete") == why
    assert "episodes" in OUTCOME  # the caller's own is as it was
