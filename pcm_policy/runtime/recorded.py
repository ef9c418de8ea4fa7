"""Solves as recordings: every kind of round is made once, and replayed.

A *recording* is a function of tensors that needs no Python: a CUDA graph or an ONNX session. What
is recorded is :func:`~pcm_policy.solvers.loop.advance`, a round of the eager loop itself, so any
step runs with any stop and in the same rounds. Where a stop reads nothing back, the whole solve is
one recording. Else the host looks at the iterate between two rounds, as the eager loop does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

from torch import Tensor

from pcm_policy.runtime.nested import Fill, flatten
from pcm_policy.runtime.turns import TURNS
from pcm_policy.solvers.loop import advance, collect, never, solve
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Stop, Tolerance
from pcm_policy.solvers.system import Iterate, Round, System

Function = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
Record = Callable[[Function, Sequence[Tensor]], Function]
"""Makes a recording of a function, for tensors of the shapes of the given ones."""
Begin = Callable[[Sequence[Tensor]], tuple[System, Iterate]]
"""Makes a system and its first iterate of the tensors that a solve reads."""
Replay = Callable[[Sequence[Tensor]], Any]


def traced(
    function: Callable[[Any], Any], fill: Fill, given: Sequence[Tensor]
) -> tuple[Function, tuple[int, ...], Fill]:
    """Return what there is to record of a function of one nested value.

    Args:
        function: the function.
        fill: builds its argument, as :func:`~pcm_policy.runtime.nested.flatten` returns it.
        given: the tensors of an argument.

    Returns:
        A function that returns each tensor of the result once, without those that it was given; for
        every tensor of the result its place among those given and those returned, in this order;
        and what builds the result.
    """
    tensors, _, result_of = flatten(function(fill(iter(given))))
    old = len(given)
    place: dict[int, int] = {}
    for i, tensor in enumerate((*given, *tensors)):
        place.setdefault(id(tensor), i)
    fresh = sorted({at for at in (place[id(t)] for t in tensors) if at >= old})
    number = dict(enumerate(range(old))) | {at: old + i for i, at in enumerate(fresh)}

    def outputs(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        made = flatten(function(fill(iter(values))))[0]
        return tuple(made[at - old] for at in fresh)

    return outputs, tuple(number[place[id(tensor)]] for tensor in tensors), result_of


def recording(
    function: Callable[[Any], Any], fill: Fill, given: Sequence[Tensor], record: Record
) -> Replay:
    """Record a function of one nested value; the arguments are those of :func:`traced`."""
    outputs, sources, result_of = traced(function, fill, given)
    recorded = record(outputs, given)

    def replay(values: Sequence[Tensor]) -> Any:
        found = (*values, *recorded(values))
        return result_of(found[at] for at in sources)

    return replay


class Recorded:
    """One step and stop, for inputs of fixed shapes.

    Args:
        begin: makes a solve's system and first iterate.
        step: how each round is made.
        stop: when they end.
        record: makes recordings.
        timed: whether a deadline may end a solve after any round.
    """

    def __init__(
        self, begin: Begin, step: Step, stop: Stop, record: Record, *, timed: bool = False
    ) -> None:
        self._begin, self._step, self._record = begin, step, record
        self._by_round = timed or stop.reads
        # Between two rounds the host may look at the clock: what is final then is on the device.
        hidden = timed and not stop.reads
        self._stop = Tolerance(stop.rounds, stop.safety, stop.error) if hidden else stop
        self._made: dict[Any, Replay] = {}

    def __call__(
        self, given: Sequence[Tensor], clock: Callable[[], Callable[[], bool]] | None = None
    ) -> SolveResult:
        """Solve.

        Args:
            given: the tensors that ``begin`` takes.
            clock: starts a deadline; what it returns is asked after every round.
        """
        if not self._by_round:
            found: SolveResult = self._replay(self._all, tuple(given))
            return found
        if clock is not None and not self._made:
            collect(self._rounds(given), self._stop)  # recording takes longer than a deadline
        return collect(self._rounds(given), self._stop, never if clock is None else clock())

    def _rounds(self, given: Sequence[Tensor]) -> Iterator[tuple[Round, Iterate, Tensor]]:
        """Yield what :func:`~pcm_policy.solvers.loop.rounds` does, without the rounds' states."""
        early = self._step.early()
        s, *made = self._replay(self._first, tuple(given))
        for k in count(1):
            r, x, residual, memory = made
            x = self._stop.look(replace(x, k=k))
            yield r, x, residual
            if self._stop.ended(x):
                return
            # Later rounds are one recording: over all states, where the stop keeps the final ones.
            x = replace(x, rows=None)
            if early is not None and k >= early and x.front is not None:
                x = replace(x, k=early, lo=0)
            made = self._replay(self._next, (s, x, memory))

    def _replay(self, function: Callable[[Any], Any], value: Any) -> Any:
        """Call a recording of a function of one nested value, which is made if there is none."""
        tensors, kind, fill = flatten(value)
        key = function.__name__, kind
        if key not in self._made:
            with TURNS.alone():
                if key not in self._made:  # another thread may have made it meanwhile
                    self._made[key] = recording(function, fill, tensors, self._record)
        return self._made[key](tensors)

    def _all(self, given: Sequence[Tensor]) -> SolveResult:
        return solve(*self._begin(given), self._step, self._stop)

    def _first(self, given: Sequence[Tensor]) -> tuple[Any, ...]:
        s, x = self._begin(given)
        s = self._step.ready(s, self._stop)
        return s, *self._next((s, self._stop.begin(x), self._step.init(s)))

    def _next(self, value: tuple[System, Iterate, Any]) -> tuple[Any, ...]:
        s, x, memory = value
        r, x, residual, memory = advance(s, self._step, self._stop, x, memory)
        return replace(r, before=x, P=x.P, swept=x.X, X=x.X), x, residual, memory
