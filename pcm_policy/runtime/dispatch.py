"""From a solve to what executes it: the loop as it is written, or recordings of it."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import Tensor

from pcm_policy.runtime.inputs import Assemble, Inputs
from pcm_policy.runtime.recorded import Record, Recorded
from pcm_policy.sampling.denoise import Network
from pcm_policy.solvers.deadline import Deadline, synchronize
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import Iterate, System


class Direct:
    """Executes the loop as it is written, with another network.

    Args:
        network: what stands in for the policy's network.
        alone: whether solves wait for each other.
    """

    def __init__(self, network: Network, *, alone: bool = False) -> None:
        self.network = network
        self._turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Solve."""
        with self._turn:
            return solver(*assemble(given, solver, self.network))


class Programs:
    """Executes recordings, which are made for every solver and shape of inputs when it comes.

    The first solve of a kind records its ``assemble``: those of one shape all come from the same.

    Args:
        network: what stands in for the base network.
        record: makes a recording.
        alone: whether solves wait for each other, because recordings keep their inputs.
    """

    def __init__(self, network: Network, record: Record, *, alone: bool = False) -> None:
        self.network, self._record = network, record
        self._made: dict[Any, Program] = {}
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[Any] = threading.Lock() if alone else nullcontext()

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Solve."""
        key = (solver, given.shape)
        with self._lock:
            if key not in self._made:
                self._made[key] = Program(assemble, self.network, solver, given, self._record)
        with self._turn:
            return self._made[key](given)


class Program:
    """One solver, recorded for inputs of fixed shapes.

    Args:
        assemble: makes a solve of what it reads.
        network: what stands in for the base network.
        solver: how to solve.
        inputs: the first solve's inputs, for their shapes.
        record: makes a recording.
    """

    def __init__(
        self,
        assemble: Assemble,
        network: Network,
        solver: Solver,
        inputs: Inputs,
        record: Record,
    ) -> None:
        def begin(given: Sequence[Tensor]) -> tuple[System, Iterate]:
            return assemble(inputs.filled(given), solver, network)

        self.deadline_ms = solver.deadline_ms
        timed = solver.deadline_ms is not None
        self._recorded = Recorded(begin, solver.step, solver.stop, record, timed=timed)

    def __call__(self, inputs: Inputs) -> SolveResult:
        """Solve."""
        finish = partial(synchronize, inputs.obs.device)
        clock = None if self.deadline_ms is None else partial(Deadline, self.deadline_ms, finish)
        return self._recorded(inputs.present(), clock)
