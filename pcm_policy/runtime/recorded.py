"""Solves as recordings: every kind of round is made once, and replayed.

A *recording* is a function of tensors that needs no Python: a CUDA graph or an ONNX session. What
is recorded is :func:`~pcm_policy.solvers.loop.advance`, a round of the eager loop itself, so any
step runs with any stop and in the same rounds. Where a stop reads nothing back, the whole solve is
one recording. Else the host looks at the iterate between two rounds, as the eager loop does.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.runtime.turns import TURNS
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.loop import advance, result, solve
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Stop
from pcm_policy.solvers.system import Iterate, System

Function = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
Record = Callable[[Function, Sequence[Tensor]], Function]
"""Makes a recording of a function, for tensors of the shapes of the given ones."""
Begin = Callable[[Sequence[Tensor]], tuple[System, Iterate]]
"""Makes a system and its first iterate of the tensors that a solve reads."""
Fill = Callable[[Iterator[Tensor]], Any]

PARTS = (System, Denoiser, Prefix, Noise, Iterate, SolveResult)
CONSTANT = {"sampler", "network", "head", "jacobian", "encoded_nodes"}
"""Fields of ``PARTS`` that are the same in every solve of one solver."""


def flatten(value: Any) -> tuple[list[Tensor], Any, Fill]:
    """Take nested tuples and ``PARTS`` apart.

    Returns:
        The tensors; what else two values must share to be filled alike; and a function that builds
        the value again with other tensors.
    """
    if isinstance(value, Tensor):
        return [value], (tuple(value.shape), value.dtype), next
    if isinstance(value, tuple):
        found = [flatten(one) for one in value]
        tensors = [t for own, _, _ in found for t in own]
        kinds = tuple(kind for _, kind, _ in found)
        return tensors, kinds, lambda rest: tuple(fill(rest) for _, _, fill in found)
    if isinstance(value, PARTS):
        names = [f.name for f in fields(value) if f.name not in CONSTANT]
        tensors, kinds, fill = flatten(tuple(getattr(value, name) for name in names))
        return (
            tensors,
            kinds,
            lambda rest: replace(value, **dict(zip(names, fill(rest), strict=True))),
        )
    return [], None, lambda rest: value


@dataclass(frozen=True)
class Replay:
    """A recording of a function of nested values.

    Attributes:
        recorded: maps tensors to the tensors that are not among them.
        sources: for every tensor of the result, ``(True, i)`` for the function's i-th output and
            ``(False, i)`` for the i-th tensor that it was given.
        fill: builds the result.
    """

    recorded: Function
    sources: tuple[tuple[bool, int], ...]
    fill: Fill

    def __call__(self, given: Sequence[Tensor]) -> Any:
        """Return the result for other tensors."""
        made = self.recorded(given)
        found = (made[i] if own else given[i] for own, i in self.sources)
        return self.fill(found)


def recording(
    function: Callable[[Any], Any], fill: Fill, given: Sequence[Tensor], record: Record
) -> Replay:
    """Record a function of one nested value.

    Args:
        function: what is recorded.
        fill: builds its argument, as :func:`flatten` returns it.
        given: the tensors of an argument.
        record: makes the recording.
    """
    tensors, _, result_of = flatten(function(fill(iter(given))))
    places = {id(t): i for i, t in reversed(list(enumerate(given)))}
    fresh: dict[int, int] = {}
    sources = []
    for t in tensors:
        if id(t) in places:
            sources.append((False, places[id(t)]))
        else:
            sources.append((True, fresh.setdefault(id(t), len(fresh))))
    first = {i: at for at, (own, i) in reversed(list(enumerate(sources))) if own}

    def outputs(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        made = flatten(function(fill(iter(values))))[0]
        return tuple(made[first[i]] for i in range(len(first)))

    return Replay(record(outputs, given), tuple(sources), result_of)


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
        self._stop = stop.between_replays() if timed else stop
        self._by_round = timed or stop.reads
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
            found: SolveResult = self._replay("all", self._all, (tuple(given), None))
            return found
        if clock is not None and not self._made:
            self._rounds(given, lambda: False)  # making recordings takes longer than a deadline
        return self._rounds(given, (lambda: False) if clock is None else clock())

    def _rounds(self, given: Sequence[Tensor], late: Callable[[], bool]) -> SolveResult:
        stop, early = self._stop, self._step.early()
        s, *round_ = self._replay("first", self._first, (tuple(given), None))
        residuals: list[Tensor] = []
        used = nfe = k = 0
        while True:
            x, memory, residual, (more, calls, whole) = round_
            used, nfe, k = used + calls, nfe + more, k + 1
            residuals += [residual] * calls
            x = stop.look(replace(x, k=k))
            is_late = late()
            if is_late or stop.ended(s, x):
                return result(s, stop, whole, x, torch.stack(residuals), used, nfe, is_late)
            # Later rounds are one recording: over all states, where the stop keeps the final ones.
            lo, at = x.lo, k
            if early is not None and k >= early and x.front is not None:
                lo, at = 0, early
            x = replace(x, k=at, lo=lo, rows=None)
            round_ = self._replay((at, lo, x.cold), self._next, (s, x, memory))

    def _replay(self, key: Any, function: Callable[[Any], Any], value: Any) -> Any:
        """Call a recording of a function of one nested value, which is made if there is none."""
        tensors, kind, fill = flatten(value)
        made = self._made.get((key, kind))
        if made is None:
            with TURNS.alone():
                made = self._made.get((key, kind))  # another thread may have made it meanwhile
                if made is None:
                    made = recording(function, fill, tensors, self._record)
                    self._made[key, kind] = made
        return made(tensors)

    def _all(self, value: Any) -> SolveResult:
        return solve(*self._begin(value[0]), self._step, self._stop)

    def _first(self, value: Any) -> tuple[Any, ...]:
        s, x = self._begin(value[0])
        s = self._step.ready(s, self._stop)
        return s, *self._next((s, self._stop.begin(x), self._step.init(s)))

    def _next(self, value: Any) -> tuple[Any, ...]:
        s, x, memory = value
        r, x, residual, memory = advance(s, self._step, self._stop, x, memory)
        return x, memory, residual, (r.nfe, r.calls, r.whole)
