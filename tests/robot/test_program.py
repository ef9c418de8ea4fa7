"""The host's part of a solve: which graph comes next, and when it ends."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pcm_policy.robot.engine import Call
from pcm_policy.robot.program import Graph, Program, Runner

PASS = (1, 2, 3, 4)


def opened(path: Path) -> Call:
    """Open a graph that counts in its first tensor; the end gives chunk, bound, X and F."""

    def call(given: Sequence[Any]) -> list[Any]:
        if path.name == "end.onnx":
            X = np.broadcast_to(given[0].astype(np.float32), (2, 1, 1, 1))
            return [X[-1], np.zeros(1, np.float32), X, X]
        return [given[0] + 1]

    return call


def program(**more: Any) -> Program:
    graphs = tuple(Graph(f"{name}.onnx", (1,), watch=0) for name in ("a", "b"))
    values: dict[str, Any] = {"most": 5, "over": 9, "done": "certified", **more}
    return Program(graphs, end=Graph("end.onnx", PASS), kept=1, **values)


def run(one: Program, clock: Any = None) -> Any:
    runner = Runner(one, Path(), opened, clock or (lambda: 0.0))
    return runner([np.zeros(1, np.int64)])


@pytest.mark.parametrize(
    ("more", "rounds", "ended"),
    [({}, 5, "rounds"), ({"over": 3}, 3, "certified"), ({"most": 1}, 1, "rounds")],
)
def test_ends(more: dict[str, Any], rounds: int, ended: str) -> None:
    found = run(program(**more))
    assert (found.rounds, found.ended, found.nfe) == (rounds, ended, rounds)
    assert found.sample.tolist() == [[[rounds]]]


class Clock:
    """Ten milliseconds pass between two looks."""

    def __init__(self) -> None:
        self.now = -0.01

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@pytest.mark.parametrize(("ms", "rounds", "ended"), [(5, 1, "late"), (35, 3, "late"), (1e6, 5, "")])
def test_deadline(ms: float, rounds: int, ended: str) -> None:
    found = run(program(deadline_ms=ms), Clock())
    assert found.rounds == rounds
    assert found.ended == (ended or "rounds")
    runner = Runner(program(deadline_ms=ms), Path(), opened, Clock())
    assert runner([np.zeros(1, np.int64)], timed=False).rounds == 5
