"""One solve at a time in a background thread, so that the loop does not have to wait."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pcm_policy.control.plan import Plan, PlanRequest


@dataclass(frozen=True)
class Solved:
    """The end of a solve.

    Attributes:
        request: what was asked.
        plan: the answer, or None.
        error: why there is none.
        begin_s: when it was handed in, ``time.perf_counter``.
        end_s: when the answer was there.
    """

    request: PlanRequest
    plan: Plan | None
    error: str
    begin_s: float
    end_s: float

    @property
    def latency_ms(self) -> float:
        """Time from handing in to the answer."""
        return (self.end_s - self.begin_s) * 1e3


class PlanThread:
    """Solve requests in a thread, which holds at most one request and one answer.

    Args:
        solve: maps a request to a plan; an exception becomes the error of that request.
    """

    def __init__(self, solve: Callable[[PlanRequest], Plan]) -> None:
        self._solve = solve
        self._state = threading.Condition()
        self._request: tuple[PlanRequest, float] | None = None
        self._answer: Solved | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="pcm-plan", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether a request is being solved or waits for it."""
        return self._busy

    def submit(self, request: PlanRequest) -> None:
        """Hand in a request; one that nobody has started on yet is replaced."""
        with self._state:
            self._request, self._busy = (request, time.perf_counter()), True
            self._state.notify_all()

    def take(self, timeout_s: float = 0.0) -> Solved | None:
        """Return the answer that is there, or that comes within ``timeout_s``."""
        with self._state:
            if self._answer is None and timeout_s > 0:
                self._state.wait_for(lambda: self._answer is not None, timeout_s)
            answer, self._answer = self._answer, None
            return answer

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread; a solve under way is waited for."""
        with self._state:
            self._closed = True
            self._state.notify_all()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._request is not None or self._closed)
                if self._closed or self._request is None:
                    return
                (request, begin), self._request = self._request, None
            plan, error = None, ""
            try:
                plan = self._solve(request)
            except Exception as problem:  # a robot must not stop because a solve raised
                error = f"{type(problem).__name__}: {problem}"
            with self._state:
                self._answer = Solved(request, plan, error, begin, time.perf_counter())
                self._busy = self._request is not None
                self._state.notify_all()
