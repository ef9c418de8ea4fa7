"""What the micro-batcher does with a crowd."""

import asyncio
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import Plan, PlanRequest
from pcm_policy.serving.batcher import Batcher, best_size, measure
from pcm_policy.serving.planner import Planner


class Slow:
    """Answers after a while; remembers the shapes it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.threads: set[str] = set()

    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int], batch: int
    ) -> list[Plan]:
        self.calls.append((len(requests), batch))
        self.threads.add(threading.current_thread().name)
        time.sleep(0.02)
        if requests[0].id == 666:
            raise ValueError("broken")
        return [Plan(r.id, np.zeros((1, 1), np.float32)) for r in requests]


def request(i: int) -> PlanRequest:
    return PlanRequest(i, 0, 0, 0.0, np.zeros((2, 1), np.float32), np.zeros((0, 1), np.float32))


def crowd(ids: Sequence[int], cost: dict[int, float]) -> tuple[Slow, list[Any]]:
    slow = Slow()

    async def run() -> list[Any]:
        batcher = Batcher(slow, cost)  # type: ignore[arg-type]
        task = asyncio.create_task(batcher.run())
        found = await asyncio.gather(
            *(batcher.plan(request(i)) for i in ids), return_exceptions=True
        )
        task.cancel()
        batcher.close()
        return found

    return slow, asyncio.run(run())


def test_best_size() -> None:
    cost = {1: 3.0, 2: 8.0, 4: 10.0, 8: 16.0}
    assert [best_size(cost, n) for n in (1, 2, 3, 4, 5, 6, 8, 20)] == [1, 1, 1, 4, 4, 4, 8, 8]
    assert best_size({1: 3.0}, 9) == 1


def test_a_crowd_is_solved_together() -> None:
    slow, found = crowd(range(6), {1: 3.0, 4: 5.0})
    assert [f.plan.id for f in found] == list(range(6))
    assert slow.calls == [(4, 4), (2, 4)]
    assert len(slow.threads) == 1
    assert found[5].queue_ms > 15
    slow, _ = crowd(range(3), {1: 3.0, 4: 50.0})
    assert slow.calls == [(1, 1)] * 3


def test_a_broken_solve_ends_nothing() -> None:
    _, found = crowd([1, 666, 2], {1: 1.0})
    assert isinstance(found[1], RuntimeError)
    assert [found[0].plan.id, found[2].plan.id] == [1, 2]


@pytest.mark.parametrize("sizes", [(1, 2)])
def test_measure(planner: Planner, sizes: tuple[int, ...]) -> None:
    assert set(measure(planner, sizes)) == set(sizes)
