"""One solve at a time in a background thread, so that the loop does not have to wait.

Between the solves the thread encodes the frames that came in, oldest first. A request goes first:
the frames that it needs and that are not encoded yet are encoded as a part of it.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pcm_policy.control.plan import Frame, Plan, PlanRequest

LOG = logging.getLogger("pcm_policy.control")


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
        see: encodes a frame and returns the milliseconds it took; None where frames are not
            encoded before a request needs them. What it raises is left to that request.
        waiting_frames: most frames that wait to be encoded; older ones are given up.
    """

    def __init__(
        self,
        solve: Callable[[PlanRequest], Plan],
        see: Callable[[Frame], float] | None = None,
        waiting_frames: int = 2,
    ) -> None:
        self._solve, self._see, self._room = solve, see, waiting_frames
        self._frames: deque[Frame] = deque()
        self._encoded: deque[float] = deque(maxlen=1024)
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
            for frame in set(request.frames) & set(self._frames):
                self._frames.remove(frame)
            self._state.notify_all()

    def show(self, frame: Frame) -> int:
        """Hand in a frame to be encoded before a request needs it.

        Returns:
            How many older ones were given up for it.
        """
        if self._see is None:
            return 0
        with self._state:
            self._frames.append(frame)
            dropped = max(len(self._frames) - self._room, 0)
            for _ in range(dropped):
                self._frames.popleft()
            self._state.notify_all()
        return dropped

    def encoded(self) -> list[float]:
        """Return the milliseconds of every frame encoded since the last call."""
        with self._state:
            found = list(self._encoded)
            self._encoded.clear()
        return found

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
                self._state.wait_for(lambda: self._request or self._frames or self._closed)
                if self._closed:
                    return
                work, self._request = self._request, None
                frame = self._frames.popleft() if work is None else None
            if work is None:
                self._encode(frame)
                continue
            request, begin = work
            plan, error = None, ""
            try:
                plan = self._solve(request)
            except Exception as problem:  # a robot must not stop because a solve raised
                error = f"{type(problem).__name__}: {problem}"
            with self._state:
                self._answer = Solved(request, plan, error, begin, time.perf_counter())
                self._busy = self._request is not None
                self._state.notify_all()

    def _encode(self, frame: Frame | None) -> None:
        if self._see is None or frame is None:
            return
        try:
            spent = self._see(frame)
        except Exception as problem:  # the request that needs the frame will say so too
            LOG.debug("frame %d: %s", frame.number, problem)
            return
        with self._state:
            self._encoded.append(spent)
