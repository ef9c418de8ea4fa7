"""A solve as graphs: the host passes tensors from one to the next, and looks in between.

The first graph takes the inputs of a solve. Each graph's outputs, and tensors that it was given,
are the next one's inputs; the last graph repeats until the solve has ended. A solve with a fixed
number of rounds is one graph.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.deadline import Deadline
from pcm_policy.robot.engine import Arrays, Call, Open


@dataclass(frozen=True)
class Graph:
    """One file and what becomes of its outputs.

    Attributes:
        file: its name in the folder.
        sources: for every tensor of the next state its place among the tensors that the graph was
            given and its outputs, in this order.
        calls: batched network calls, one after another.
        nfe: evaluated states.
        whole: whether its last round evaluated the base at all states: then there is a bound.
        watch: place in the next state of the number that says how far the solve is, or None.
    """

    file: str
    sources: tuple[int, ...]
    calls: int = 1
    nfe: int = 1
    whole: bool = True
    watch: int | None = None


@dataclass(frozen=True)
class Program:
    """The graphs of one solve.

    Attributes:
        graphs: in their order; the last one repeats.
        most: graphs that are called at most.
        end: maps the last state to chunk, bound, trajectory and forcing; None where the only graph
            does.
        kept: how many of the last state's tensors it takes: the first ones.
        over: the solve ends when the watched number is as large.
        done: why it ended then.
        used_up: why it ended otherwise.
        error: largest bound of a certified chunk.
        deadline_ms: the solve ends when another graph would exceed this; None for no deadline.
    """

    graphs: tuple[Graph, ...]
    most: int
    end: Graph | None
    kept: int
    over: int = 0
    done: str = ""
    used_up: str = "rounds"
    error: float = 0.0
    deadline_ms: float | None = None

    @property
    def files(self) -> set[str]:
        """Names of all its files."""
        ends = set() if self.end is None else {self.end.file}
        return {graph.file for graph in self.graphs} | ends


@dataclass(frozen=True)
class Solve:
    """One solve, as :class:`pcm_policy.solvers.SolveResult` describes it; arrays in numpy.

    Attributes:
        chunk: ``(1, T, Da)`` in raw units, not limited.
        sample: ``(1, T, D)`` the same normalised, with all that the trajectory holds.
        rounds: batched network calls, one after another.
        nfe: network evaluations.
        bound: ``(1,)`` estimated largest error against the exact chunk, in normalised action units;
            infinite if there is no estimate.
        certified: ``(1,)`` bool, whether the bound is within the tolerance.
        ended: why it ended: ``exact``, ``certified``, ``rounds``, ``settled``, ``late`` or
            ``diverged``.
        trajectory: ``(N + 1, 1, T, D)`` all states.
        forced: ``(N + 1, 1, T, D)`` what the noise alone gives.
    """

    chunk: NDArray[np.float32]
    sample: NDArray[np.float32]
    rounds: int
    nfe: int
    bound: NDArray[np.float32]
    certified: NDArray[np.bool_]
    ended: str
    trajectory: NDArray[np.float32]
    forced: NDArray[np.float32]


class Runner:
    """A program whose graphs are open.

    Args:
        program: the program.
        folder: where its files are.
        open_graph: opens one.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        program: Program,
        folder: Path,
        open_graph: Open,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.program, self._clock = program, clock
        self._calls: dict[str, Call] = {
            name: open_graph(folder / name) for name in sorted(program.files)
        }

    def __call__(self, given: Arrays, timed: bool = True) -> Solve:
        """Solve.

        Args:
            given: the inputs of the first graph.
            timed: whether the deadline counts, if there is one.
        """
        program, state = self.program, list(given)
        calls = nfe = count = 0
        ms = program.deadline_ms if timed else None
        late = Deadline(math.inf if ms is None else ms, clock=self._clock)
        while True:
            graph = program.graphs[min(count, len(program.graphs) - 1)]
            state = self._passed(graph, state)
            calls, nfe, count = calls + graph.calls, nfe + graph.nfe, count + 1
            done = graph.watch is not None and int(state[graph.watch].max()) >= program.over
            is_late = late()
            if done or is_late or count >= program.most:
                break
        if program.end is not None:
            state = self._passed(program.end, state[: program.kept])
        why = program.done if done else "late" if is_late else program.used_up
        return self._result(state, calls, nfe, graph.whole, why)

    def _passed(self, graph: Graph, state: Arrays) -> list[NDArray[Any]]:
        """Return the tensors after a graph."""
        found = [*state, *self._calls[graph.file](state)]
        return [found[place] for place in graph.sources]

    def _result(
        self, values: Sequence[NDArray[Any]], calls: int, nfe: int, whole: bool, why: str
    ) -> Solve:
        chunk, bound, trajectory, forced = values
        finite = bool(np.isfinite(trajectory[-1]).all())
        if not (whole and finite):
            bound = np.full_like(bound, math.inf)
        return Solve(
            chunk=chunk,
            sample=trajectory[-1],
            rounds=calls,
            nfe=nfe,
            bound=bound,
            certified=bound <= self.program.error,
            ended=why if finite else "diverged",
            trajectory=trajectory,
            forced=forced,
        )
