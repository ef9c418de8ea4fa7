"""Solve the requests of several clients together, where that is faster."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.timing import Side, take_turns
from pcm_policy.serving.planner import Planner

SIZES = (1, 2, 4, 8, 16)
CALLS, WARMUP = 5, 2


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


def measure(planner: Planner, sizes: Sequence[int] = SIZES) -> dict[int, float]:
    """Return the median milliseconds of a solve at several batch sizes; also warms up."""
    spec = planner.spec
    middle = (np.asarray(spec.obs_low) + np.asarray(spec.obs_high)) / 2
    obs = np.repeat(middle[None].astype(np.float32), spec.obs_steps, axis=0)
    none = np.zeros((0, spec.action_dim), np.float32)
    request = PlanRequest(id=0, seed=0, tick=0, clock=0.0, obs=obs, prefix=none)

    def side(size: int) -> Side:
        def call(_: int) -> None:
            planner.plan_batch([request], [0], size)

        return call

    spent = take_turns([side(size) for size in sizes], CALLS, warmup=WARMUP)
    return {size: percentiles(times)["p50"] for size, times in zip(sizes, spent, strict=True)}


def best_size(cost_ms: Mapping[int, float], waiting: int) -> int:
    """Return the batch size that is cheapest per request when ``waiting`` of them are there."""
    return min(sorted(cost_ms), key=lambda size: cost_ms[size] / min(size, waiting))


class Batcher:
    """Collects what has come in while the last solve ran; one solve at a time.

    Nobody waits for company: an idle solver starts at once with what is there, as many of them as
    are cheapest per request. Groups are filled up to one of a few sizes, so that the network only
    sees these shapes.

    Args:
        planner: solves.
        cost_ms: milliseconds of a solve by batch size, 1 among them.
    """

    def __init__(self, planner: Planner, cost_ms: Mapping[int, float]) -> None:
        self._planner, self._cost = planner, dict(cost_ms)
        self._queue: asyncio.Queue[tuple[PlanRequest, asyncio.Future[Served], float]]
        self._queue = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "pcm-solve")

    async def plan(self, request: PlanRequest) -> Served:
        """Solve a request, alone or with others."""
        future: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((request, future, time.perf_counter()))
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            group = [await self._queue.get()]
            size = best_size(self._cost, 1 + self._queue.qsize())
            while len(group) < size and not self._queue.empty():
                group.append(self._queue.get_nowait())
            group = [item for item in group if not item[1].done()]  # their client has gone
            if not group:
                continue
            begin = time.perf_counter()
            try:
                plans = await loop.run_in_executor(
                    self._thread,
                    self._planner.plan_batch,
                    [request for request, _, _ in group],
                    range(len(group)),
                    size,
                )
            except Exception as error:  # one bad solve must not end the server
                for _, future, _ in group:
                    if not future.done():
                        future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
                continue
            spent = (time.perf_counter() - begin) * 1e3
            for (_, future, came), plan in zip(group, plans, strict=True):
                if not future.done():
                    future.set_result(Served(plan, (begin - came) * 1e3, spent, len(group)))

    def close(self) -> None:
        """End the solving thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)
