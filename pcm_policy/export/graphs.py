"""A solve as the graphs of a :class:`~pcm_policy.robot.program.Program`.

=========================== =====================================================================
the solve                   its graphs
=========================== =====================================================================
fixed rounds, sequential    one: all rounds
tolerance, settle, deadline one that begins with the first round, one for every kind of later
                            round, of which the last repeats; one that ends
=========================== =====================================================================
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.robot.program import Graph, Program
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.runtime.nested import flatten
from pcm_policy.runtime.recorded import Function, traced
from pcm_policy.solvers.loop import advance, solve
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import Ended
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Rounds, Settle, Stop, Tolerance
from pcm_policy.solvers.system import Iterate, System

Write = Callable[[Function, Sequence[Tensor], Path], None]
"""Writes a function as a graph, for tensors of the shapes of the given ones."""
NAMES = {Ended.EXACT: "exact", Ended.ROUNDS: "rounds"}


class Tracer:
    """Writes the graphs of one policy's solves into a folder.

    Args:
        policy: on the CPU, float32.
        solver: complete.
        folder: gets the graphs.
        write: writes one.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver, folder: Path, write: Write) -> None:
        self._policy, self._solver, self._folder, self._write = policy, solver, folder, write

    @torch.no_grad()
    def program(self, inputs: Inputs, cold: bool, prefix: str = "") -> Program:
        """Write the graphs of a solve.

        Args:
            inputs: an example; the prefix has raw actions.
            cold: whether a solve without a guess is meant; the graphs take one that is NaN.
            prefix: of the files' names.

        Raises:
            PcmError: a solver whose rounds depend on data in a way that no graph can hold.
        """
        solver = self._solver
        if type(solver.stop) not in (Rounds, Tolerance, Settle):
            raise PcmError(
                f"solver {solver.label} has a stop of its own, {type(solver.stop).__name__}: a "
                "robot's folder takes rounds, tolerance, settle and deadline_ms"
            )
        if type(solver.stop) is Rounds and solver.deadline_ms is None:
            return self._fixed(inputs, cold, prefix)
        return self._looked(inputs, cold, prefix)

    def _begin(self, inputs: Inputs, given: Sequence[Tensor], cold: bool) -> tuple[System, Iterate]:
        """Return a solve's system and first iterate; known actions are normalised here."""
        read = inputs.filled(given)
        assert read.prefix is not None
        values = self._policy.action_normalizer.normalize(read.prefix.values)
        read = replace(read, prefix=replace(read.prefix, values=values))
        s, x = self._policy.assemble(read, self._solver)
        return s, replace(x, cold=x.cold or cold)

    def _results(self, s: System, X: Tensor, bound: Tensor) -> tuple[Tensor, ...]:
        return self._policy.raw_chunk(X[-1]), bound, X, s.F

    def _record(self, file: str, function: Callable[[Any], Any], value: Any) -> tuple[Any, Any]:
        """Write a function of one nested value; returns what it gives and the tensors' sources."""
        tensors, _, fill = flatten(value)
        outputs, sources, result_of = traced(function, fill, tensors)
        self._write(outputs, tensors, self._folder / file)
        found = (*tensors, *outputs(tensors))
        return result_of(found[at] for at in sources), sources

    def _fixed(self, inputs: Inputs, cold: bool, prefix: str) -> Program:
        found: Any = None

        def all_rounds(value: Any) -> Any:
            nonlocal found
            s, x = self._begin(inputs, value, cold)
            found = solve(s, x, self._solver.step, self._solver.stop)
            return self._results(s, found.trajectory, found.bound)

        file = f"{prefix}solve.onnx"
        _, sources = self._record(file, all_rounds, tuple(inputs.present()))
        graph = Graph(file, sources, found.rounds, found.nfe)
        stop = self._solver.stop
        return Program((graph,), 1, None, 4, used_up=NAMES[found.ended], error=stop.error)

    def _looked(self, inputs: Inputs, cold: bool, prefix: str) -> Program:
        """Follow the kinds of rounds until one repeats."""
        step, stop = self._solver.step, self._solver.stop
        if not stop.reads:  # between two rounds the host looks at the clock
            stop = Tolerance(stop.rounds, stop.safety, stop.error)

        def first(value: Any) -> Any:
            s, x = self._begin(inputs, value, cold)
            s = step.ready(s, stop)
            return later((s, stop.begin(x), step.init(s)))

        def later(value: Any) -> Any:
            s, x, memory = value
            r, x, _, memory = advance(s, step, stop, x, memory)
            return s, x, memory, (r.nfe, r.calls, r.whole, r.full)

        function: Callable[[Any], Any] = first
        value: Any = tuple(inputs.present())
        graphs: list[Graph] = []
        before: Any = None
        full = False
        while True:
            file = f"{prefix}round{len(graphs) + 1}.onnx"
            (s, x, memory, info), sources = self._record(file, function, value)
            nfe, calls, whole, is_full = info
            graphs.append(Graph(file, sources, calls, nfe, whole, _watched(s, x)))
            full = full or is_full
            x = self._settled(stop, x, len(graphs), full)
            function, value = later, (s, x, memory)
            kind = flatten(value)[1]
            over = x.front is None and x.lo >= s.steps
            if kind == before or len(graphs) == stop.rounds or over:
                break
            before = kind

        def end(value: Any) -> Any:
            return self._results(value[0], value[1].X, stop.bound(value[1]))

        file = f"{prefix}end.onnx"
        ends = Graph(file, self._record(file, end, (s, x))[1], 0, 0)
        return Program(
            tuple(graphs),
            len(graphs) if x.front is None else stop.rounds or s.steps + len(graphs),
            ends,
            len(flatten((s, x))[0]),
            over=1 if x.front is None else s.steps,
            done=_done(stop, x),
            used_up="exact" if over else "rounds",
            error=stop.error,
            deadline_ms=self._solver.deadline_ms,
        )

    def _settled(self, stop: Stop, x: Iterate, k: int, full: bool) -> Iterate:
        """Return the iterate that later rounds are written for.

        How far the solve is depends on data after a full round: from then on rounds evaluate all
        states, and the stop keeps the final ones.
        """
        x, early = replace(stop.look(replace(x, k=k)), rows=None), self._solver.step.early()
        if x.front is not None:
            assert early is not None  # see check_recordable
            x = replace(x, k=min(k, early), lo=0 if full or k >= early else x.lo)
        return x


def check_recordable(solver: Solver) -> None:
    """Refuse a solver whose rounds no graph can hold, before any graph is made.

    Raises:
        PcmError: its rounds depend on the data, because a window slides until a tolerance is met.
    """
    if solver.step.early() is None and isinstance(solver.stop, Tolerance):
        raise PcmError(
            f"solver {solver.label}: its rounds depend on how far the last one came, which no "
            "graph can hold: give solver.rounds alone (picard can also do without solver.window)"
        )


def windowed(step: Step) -> bool:
    """Return whether a guess makes the rounds of a step other ones: a window that slides."""
    own = isinstance(step, Picard) and step.window is not None
    return own or any(windowed(inner) for inner in step.wraps)


def _watched(s: System, x: Iterate) -> int:
    """Return the place of what says whether a solve of one row has ended."""
    said = x.over if x.front is None else x.front
    return next(i for i, one in enumerate(flatten((s, x))[0]) if one is said)


def _done(stop: Stop, x: Iterate) -> str:
    if x.front is None:
        return "settled"
    return "certified" if stop.error > 0 else "exact"
