"""Solve the requests of several clients together, where that is faster."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.times import Times
from pcm_policy.errors import PcmError
from pcm_policy.measure.statistics import percentiles
from pcm_policy.runtime.timing import Side, take_turns
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.worker import Worker

LOG = logging.getLogger("pcm_policy.serve")
SIZES = (1, 2, 4, 8, 16)
COMPILED_SIZES = (1, 4, 16)  # each takes seconds to compile, for every kind
CALLS, WARMUP = 5, 2
KEPT_TIMES = 10_000


class Refused(PcmError):
    """A request that is not solved.

    Attributes:
        code: ``busy``, ``kind``, ``solve`` or ``closing``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Served:
    """A plan and what it took.

    Attributes:
        plan: the plan.
        queue_ms: wait until its solve began.
        solve_ms: the solve.
        batch: requests that were solved together.
    """

    plan: Plan
    queue_ms: float
    solve_ms: float
    batch: int


@dataclass
class Waiting:
    """A request that waits for its solve.

    Attributes:
        request: what is asked.
        kind: see :meth:`.Planner.kind`.
        client: who asks.
        answer: the plan, or why there is none; already done if the client has gone.
        came: time of arrival, ``time.perf_counter``.
        patience_s: time that the client waits.
    """

    request: PlanRequest
    kind: str
    client: Hashable
    answer: "asyncio.Future[Served]"
    came: float = field(default_factory=time.perf_counter)
    patience_s: float = float("inf")


@dataclass
class FrameCounts:
    """What became of the frames of all clients.

    Attributes:
        seen: frames that came before a plan needed them.
        dropped: of these given up, because newer ones of the same client came.
        late: frames before the newest one of a request that its solve had to encode.
        times: of every encoded frame, and of the frames of a request together.
    """

    seen: int = 0
    dropped: int = 0
    late: int = 0
    times: Times = field(default_factory=lambda: Times(KEPT_TIMES))

    def encoded(self, ms: float) -> None:
        """Count the time that encoding took, if anything was encoded."""
        if ms:
            self.times.add(ms)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        counts = {"seen": self.seen, "dropped": self.dropped, "late": self.late}
        return counts | {"encode_ms": self.times.summary()}


def measure(planner: Planner, sizes: Sequence[int] = SIZES) -> dict[int, float]:
    """Return the median milliseconds of a plain solve at several batch sizes; also warms up."""
    request = planner.example("plain")

    def side(size: int) -> Side:
        def call(_: int) -> None:
            planner.plan_batch([request], [0], size)

        return call

    spent = take_turns([side(size) for size in sizes], CALLS, warmup=WARMUP)
    return {size: percentiles(times)["p50"] for size, times in zip(sizes, spent, strict=True)}


def prepare(planner: Planner, kinds: Collection[str], sizes: Sequence[int] = SIZES) -> None:
    """Solve every kind at every size once, so that none is compiled while robots wait."""
    for kind in kinds:
        for size in sizes:
            planner.plan_batch([planner.example(kind)], [0], size)


def best_size(cost_ms: Mapping[int, float], waiting: int) -> int:
    """Return the batch size that is cheapest per request when ``waiting`` of them are there."""
    return min(sorted(cost_ms), key=lambda size: cost_ms[size] / min(size, waiting))


class Batcher:
    """Collects what has come in while the last solve ran; one solve at a time.

    An idle solver starts at once. It takes as many waiting requests of one kind as are cheapest per
    request. Groups are padded to one of a few sizes, so that the network only sees these shapes.

    Order of the requests: first those that can be answered in time; of these the client whose last
    answer is longest ago; of its requests the newest. A request that has waited longer than
    ``max_wait_s``, or than its client waits, is refused, because its observation is old. An
    overloaded server therefore answers fresh requests, client by client, and recovers as soon as
    the load drops.

    Args:
        planner: solves.
        cost_ms: milliseconds of a solve by batch size, 1 among them.
        max_wait_s: longest wait for a solve.
        kinds: kinds of requests that are solved, see :meth:`.Planner.kind`; None for all.
    """

    def __init__(
        self,
        planner: Planner,
        cost_ms: Mapping[int, float],
        max_wait_s: float = 1.0,
        kinds: Collection[str] | None = None,
    ) -> None:
        self._planner, self._cost = planner, dict(cost_ms)
        self._max_wait, self._kinds = max_wait_s, kinds
        self._queue: list[Waiting] = []
        self._served: dict[Hashable, float] = {}
        self._arrived = asyncio.Event()
        self._closed, self._latest_s = False, min(self._cost.values()) / 1e3
        self._worker = Worker()
        self._shown: deque[tuple[Hashable, Frame]] = deque()
        self.frames = FrameCounts()

    async def plan(
        self, request: PlanRequest, client: Hashable = None, patience_s: float = float("inf")
    ) -> Served:
        """Solve a request, alone or with others; cancel this when its client has gone.

        Args:
            request: what is asked.
            client: who asks: clients take turns.
            patience_s: time after which an answer is of no use.

        Raises:
            Refused: the server is busy or closing, the solve failed, or the kind is refused.
        """
        kind = self._planner.kind(request)
        if self._kinds is not None and kind not in self._kinds:
            raise Refused(
                "kind",
                f"requests of kind {kind} were not prepared when the server started: give it "
                f"serve.kinds=[{','.join([*self._kinds, kind])}], or runtime.mode=eager",
            )
        if self._closed:
            raise Refused("closing", "the server is closing")
        self._shown = deque(item for item in self._shown if item[1] not in request.frames)
        answer: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(request, kind, client, answer, patience_s=patience_s))
        self._arrived.set()
        return await answer

    def show(self, frame: Frame, client: Hashable, room: int) -> int:
        """Encode a frame as soon as nobody waits for a plan.

        Args:
            frame: what a client has seen; a plan that comes first encodes it itself.
            client: whose it is.
            room: frames of a client that wait, at most.

        Returns:
            How many older ones of this client were given up for it.
        """
        self._shown.append((client, frame))
        mine = [item for item in self._shown if item[0] is client]
        dropped = mine[: max(len(mine) - room, 0)]
        for item in dropped:
            self._shown.remove(item)
        self.frames.seen += 1
        self.frames.dropped += len(dropped)
        self._arrived.set()
        return len(dropped)

    def forget(self, client: Hashable) -> None:
        """Drop what is known of a client that has gone."""
        self._served.pop(client, None)
        self._shown = deque(item for item in self._shown if item[0] is not client)

    @property
    def solving(self) -> bool:
        """Whether a solve is under way."""
        return self._worker.busy

    def close(self) -> None:
        """End the solving thread, without waiting for a solve under way."""
        self._worker.close()

    async def run(self) -> None:
        """Serve until cancelled; then whoever waits is told."""
        group: list[Waiting] = []
        try:
            while True:
                group = self._next()
                if group:
                    await self._solve(group)
                elif self._shown:
                    await self._encode(self._shown.popleft()[1])
                else:
                    self._arrived.clear()
                    await self._arrived.wait()
        finally:
            self._closed = True
            for item in (*group, *self._queue):
                _refuse(item, "closing", "the server is closing")
            self._queue.clear()

    def _next(self) -> list[Waiting]:
        """Refuse what has waited too long, and take the next group out of the queue."""
        now, fresh = time.perf_counter(), []
        for item in self._queue:
            waited = now - item.came
            if item.answer.done():  # its client has gone
                continue
            if waited > min(self._max_wait, item.patience_s):
                _refuse(item, "busy", f"busy: the request has waited {waited:.2f} s, ask again")
            else:
                fresh.append(item)
        fresh.sort(key=lambda item: self._rank(item, now))
        group = [item for item in fresh if item.kind == fresh[0].kind] if fresh else []
        group = group[: best_size(self._cost, len(group))] if group else []
        self._queue = [item for item in fresh if all(item is not taken for taken in group)]
        return group

    def _rank(self, item: Waiting, now: float) -> tuple[bool, float, float]:
        late = now - item.came + self._latest_s > item.patience_s
        return late, self._served.get(item.client, 0.0), -item.came

    async def _encode(self, frame: Frame) -> None:
        try:
            self.frames.encoded(await self._worker(lambda: self._planner.see(frame)))
        except Exception as error:  # the request that needs the frame will say so too
            LOG.debug("frame %d: %s", frame.number, error)

    async def _solve(self, group: list[Waiting]) -> None:
        size = best_size(self._cost, len(group))
        begin = time.perf_counter()
        try:
            requests = [item.request for item in group]
            plans = await self._worker(
                lambda: self._planner.plan_batch(requests, range(len(requests)), size)
            )
        except Exception as error:  # one bad solve must not end the server
            for item in group:
                _refuse(item, "solve", f"{type(error).__name__}: {error}")
            return
        end = time.perf_counter()
        self._latest_s = end - begin
        for item, plan in zip(group, plans, strict=True):
            self.frames.encoded(plan.encode_ms)
            self.frames.late += plan.late_frames
            if item.client is not None:
                self._served[item.client] = end
            if not item.answer.done():
                wait, spent = (begin - item.came) * 1e3, (end - begin) * 1e3
                item.answer.set_result(Served(plan, wait, spent, len(group)))


def _refuse(item: Waiting, code: str, message: str) -> None:
    if not item.answer.done():
        item.answer.set_exception(Refused(code, message))
