"""What the micro-batcher does with a crowd."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import Plan, PlanRequest
from pcm_policy.serving.batcher import Batcher, Refused, best_size, measure, prepare
from pcm_policy.serving.planner import Planner


class Slow:
    """Answers after a while; remembers the shapes it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []
        self.threads: set[str] = set()
        self.ids: list[list[int]] = []

    def kind(self, request: PlanRequest) -> str:
        return "prefix" if len(request.prefix) else "plain"

    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int], batch: int
    ) -> list[Plan]:
        self.calls.append((len(requests), batch))
        self.threads.add(threading.current_thread().name)
        self.ids.append([r.id for r in requests])
        time.sleep(0.02)
        if requests[0].id == 666:
            raise ValueError("broken")
        return [Plan(r.id, np.zeros((1, 1), np.float32)) for r in requests]


def request(i: int, known: int = 0) -> PlanRequest:
    prefix = np.zeros((known, 1), np.float32)
    return PlanRequest(i, 0, 0, 0.0, np.zeros((2, 1), np.float32), prefix)


class Held(Slow):
    """Solves only when it is let to, one solve at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int], batch: int
    ) -> list[Plan]:
        self.ids.append([r.id for r in requests])
        self.begun.release()
        assert self.go.acquire(timeout=10)
        return [Plan(r.id, np.zeros((1, 1), np.float32)) for r in requests]


Scenario = Callable[[Batcher, Held], Awaitable[None]]


def play(scenario: Scenario, **options: Any) -> Held:
    """Run a scenario against a batcher whose first solve is under way: request 0, of nobody."""
    held = Held()

    async def run() -> None:
        batcher = Batcher(held, {1: 1.0}, **options)  # type: ignore[arg-type]
        task = asyncio.create_task(batcher.run())
        first = asyncio.create_task(batcher.plan(request(0)))
        await asyncio.to_thread(held.begun.acquire)
        await scenario(batcher, held)
        task.cancel()
        await asyncio.gather(task, first, return_exceptions=True)
        held.go.release(99)
        batcher.close()

    asyncio.run(run())
    return held


def ask(batcher: Batcher, i: int, client: str, **more: Any) -> "asyncio.Task[Any]":
    return asyncio.create_task(batcher.plan(request(i), client, **more))


async def code(task: "asyncio.Task[Any]") -> str:
    with pytest.raises(Refused) as refused:
        await asyncio.wait_for(task, 10)
    return refused.value.code


def test_kinds_are_solved_apart_and_named_when_they_are_not() -> None:
    async def scenario(batcher: Batcher, held: Held) -> None:
        asked = [asyncio.create_task(batcher.plan(request(i, known=i % 2))) for i in range(1, 5)]
        await asyncio.sleep(0)
        batcher._cost = {4: 1.0}
        held.go.release(9)
        await asyncio.gather(*asked)

    assert [sorted(ids) for ids in play(scenario).ids] == [[0], [2, 4], [1, 3]]

    async def refuses(batcher: Batcher, held: Held) -> None:
        assert await code(asyncio.create_task(batcher.plan(request(1, known=1)))) == "kind"

    play(refuses, kinds=["plain"])


def test_clients_take_turns_and_the_newest_request_of_those_who_never_had_one_comes_first() -> None:
    async def scenario(batcher: Batcher, held: Held) -> None:
        asked = [ask(batcher, 1, "a"), ask(batcher, 2, "b")]
        await asyncio.sleep(0)
        held.go.release(2)
        await asked[1]
        asked.append(ask(batcher, 3, "b"))  # b again at once, before a had its turn
        held.go.release(2)
        await asyncio.gather(*asked)

    assert play(scenario).ids == [[0], [2], [1], [3]]


def test_who_has_gone_is_not_solved_for() -> None:
    async def scenario(batcher: Batcher, held: Held) -> None:
        gone, there = ask(batcher, 1, "gone"), ask(batcher, 2, "there")
        await asyncio.sleep(0)
        gone.cancel()
        held.go.release(9)
        await there

    assert play(scenario).ids == [[0], [2]]


def test_what_has_waited_too_long_is_refused_and_the_server_is_free_again() -> None:
    async def scenario(batcher: Batcher, held: Held) -> None:
        old = [ask(batcher, i, str(i)) for i in range(1, 5)]
        impatient = ask(batcher, 5, "5", patience_s=1e-6)
        await asyncio.sleep(0)
        for waiting in batcher._queue[:4]:
            waiting.came -= 2.0
        fresh = ask(batcher, 6, "6")
        await asyncio.sleep(0)
        held.go.release(9)
        assert (await fresh).plan.id == 6
        assert [await code(task) for task in (*old, impatient)] == ["busy"] * 5
        again = ask(batcher, 7, "1")
        assert (await again).plan.id == 7

    assert play(scenario, max_wait_s=1.0).ids == [[0], [6], [7]]


def test_a_slow_solve_is_no_reason_to_refuse_for_ever() -> None:
    """What a solve took once, on a busy machine, is a matter of order and not of refusal."""

    async def scenario(batcher: Batcher, held: Held) -> None:
        batcher._latest_s = 99.0
        only = ask(batcher, 1, "a", patience_s=5.0)
        await asyncio.sleep(0)
        held.go.release(9)
        assert (await only).plan.id == 1

    play(scenario)


def test_the_end_is_told_to_everybody_while_a_solve_is_under_way() -> None:
    async def run() -> None:
        held = Held()
        batcher = Batcher(held, {1: 1.0})  # type: ignore[arg-type]
        task = asyncio.create_task(batcher.run())
        solved = ask(batcher, 0, "a")
        await asyncio.to_thread(held.begun.acquire)
        waits = ask(batcher, 1, "b")
        await asyncio.sleep(0)
        task.cancel()
        assert [await code(t) for t in (solved, waits, ask(batcher, 2, "c"))] == ["closing"] * 3
        assert batcher.solving
        held.go.release()

    asyncio.run(run())


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
    assert slow.ids == [[5, 4, 3, 2], [1, 0]]  # the newest first
    assert found[0].queue_ms > 15
    slow, _ = crowd(range(3), {1: 3.0, 4: 50.0})
    assert slow.calls == [(1, 1)] * 3


def test_a_broken_solve_ends_nothing() -> None:
    _, found = crowd([1, 666, 2], {1: 1.0})
    assert isinstance(found[1], Refused)
    assert found[1].code == "solve"
    assert [found[0].plan.id, found[2].plan.id] == [1, 2]


@pytest.mark.parametrize("sizes", [(1, 2)])
def test_measure(planner: Planner, sizes: tuple[int, ...]) -> None:
    assert set(measure(planner, sizes)) == set(sizes)


def test_everything_is_prepared() -> None:
    class Seen(Slow):
        def example(self, kind: str) -> PlanRequest:
            return request(0, known=int(kind == "prefix"))

    seen = Seen()
    prepare(seen, ["plain", "prefix"], (1, 4))  # type: ignore[arg-type]
    assert seen.calls == [(1, 1), (1, 4)] * 2
