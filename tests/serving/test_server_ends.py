"""The server's doors and its end, in this process: a planner that solves only when it is let to."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pcm_policy.control import Plan, PlanRequest, PolicySpec
from pcm_policy.control.wire import VERSION, encode, plan_message
from pcm_policy.errors import PcmError
from pcm_policy.serving import server as module
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import KINDS, Planner
from pcm_policy.serving.server import PolicyServer
from tests.bad_values import not_a_flag, not_natural, not_positive, not_whole

SPEC = PolicySpec(2, 2, 10, 2, 4, 10.0, (0.0, 0.0), (1.0, 1.0), (-9.0, -9.0), (9.0, 9.0))
NONE = np.zeros((0, 2), np.float32)


class Named:
    label = "held"


class Held(Planner):
    """Solves plain requests at once while it is measured, and later only when it is let to."""

    def __init__(self, compiles: bool = False) -> None:
        self.spec, self.solver, self._auto = SPEC, Named(), "off"  # type: ignore[assignment]
        self.ids: list[int] = []
        self.kinds: set[tuple[str, int]] = set()
        self.compiled = compiles
        self.measured = False
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    @property
    def compiles(self) -> bool:
        return self.compiled

    def plan_batch(
        self, requests: Sequence[PlanRequest], rows: Sequence[int] | None = None, batch: int = 0
    ) -> list[Plan]:
        self.kinds |= {(self.kind(r), batch) for r in requests}
        if self.measured:
            self.ids += [r.id for r in requests]
            self.begun.release()
            assert self.go.acquire(timeout=20)
        return [Plan(r.id, np.zeros((9, 2), np.float32)) for r in requests]


Scenario = Callable[[str, Held, "asyncio.Task[None]", PolicyServer], Awaitable[None]]


def play(scenario: Scenario, options: ServeOptions | None = None, **more: Any) -> PolicyServer:
    """Run a scenario against a server at an address, whose end it may ask for."""
    held = Held(**more)
    options = options or ServeOptions(port=0, batching=False)
    served = PolicyServer(held, "/home/somebody/models/mine", options)
    held.measured = True

    async def run() -> None:
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(served.run(ready))
        try:
            await scenario(f"ws://127.0.0.1:{await ready}", held, task, served)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            held.go.release(99)

    asyncio.run(asyncio.wait_for(run(), 60))
    return served


def message(i: int = 1, **changes: Any) -> bytes:
    request = PlanRequest(i, 1, 0, 0.0, np.zeros((2, 2), np.float32), NONE, **changes)
    return encode(plan_message(request, None))


async def greeted(uri: str) -> Any:
    socket = await connect(uri, compression=None, proxy=None, close_timeout=1)
    await socket.send(encode({"type": "hello", "version": VERSION}))
    socket.welcome = msgpack.unpackb(await socket.recv())
    return socket


async def reply(socket: Any) -> dict[str, Any]:
    found: dict[str, Any] = msgpack.unpackb(await socket.recv())
    return found


def test_the_end_does_not_wait_for_a_solve_nor_for_clients() -> None:
    """One waits for its plan, one says nothing, one never shook hands, one does not read."""

    async def scenario(
        uri: str, held: Held, task: "asyncio.Task[None]", served: PolicyServer
    ) -> None:
        port = int(uri.rsplit(":", 1)[1])
        asks, idle = await greeted(uri), await greeted(uri)
        _, raw = await asyncio.open_connection("127.0.0.1", port)
        deaf = await connect(uri, compression=None, proxy=None)
        deaf.transport.pause_reading()
        await asks.send(message())
        await asyncio.to_thread(held.begun.acquire)
        task.cancel()
        assert (await reply(asks))["code"] == "closing"
        with pytest.raises(ConnectionClosed):
            await asks.recv()
        with pytest.raises(ConnectionClosed):
            await idle.recv()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert served.batcher.solving  # and nobody waits for it
        raw.close()
        deaf.transport.abort()

    play(scenario)


def test_a_client_that_hangs_up_is_not_solved_for() -> None:
    async def scenario(uri: str, held: Held, _: "asyncio.Task[None]", served: PolicyServer) -> None:
        first, gone, last = [await greeted(uri) for _ in range(3)]
        await first.send(message(1))
        await asyncio.to_thread(held.begun.acquire)
        await gone.send(message(2))
        await last.send(message(3))
        while len(served.batcher._queue) < 2:
            await asyncio.sleep(0.01)
        await gone.close()
        while served.clients > 2:
            await asyncio.sleep(0.01)
        held.go.release(9)
        assert (await reply(first))["id"] == 1
        assert (await reply(last))["id"] == 3
        assert held.ids == [1, 3]

    play(scenario)


def test_the_busy_server_says_so_and_keeps_the_client() -> None:
    async def scenario(uri: str, held: Held, _: "asyncio.Task[None]", served: PolicyServer) -> None:
        first, second = await greeted(uri), await greeted(uri)
        await first.send(message(1))
        await asyncio.to_thread(held.begun.acquire)
        for i in range(2, 6):
            await second.send(message(i))
            while not served.batcher._queue:
                await asyncio.sleep(0.01)
            served.batcher._queue[0].came -= 99
            await first.send(message(90 + i))
            held.go.release()
            assert (await reply(first))["type"] == "chunk"
            assert (await reply(second))["code"] == "busy"
            await asyncio.to_thread(held.begun.acquire)
        assert held.ids == [1, 92, 93, 94, 95]

    options = ServeOptions(port=0, batching=False, max_errors=1)
    assert play(scenario, options).errors["busy"] == 4


def test_web_pages_are_not_let_in_and_are_told_no_path() -> None:
    async def scenario(uri: str, held: Held, _: "asyncio.Task[None]", served: PolicyServer) -> None:
        for origin in ("http://evil.example", "null", uri.replace("ws", "http")):
            with pytest.raises(InvalidStatus) as refused:
                await connect(uri, origin=origin, proxy=None)  # type: ignore[arg-type]
            assert refused.value.response.status_code == 403
        robot = await greeted(uri)
        assert robot.welcome["policy"] == "mine"
        assert "somebody" not in json.dumps(served.health())
        assert served.health()["policy"] == "mine"
        await robot.close()

    play(scenario)


@pytest.mark.parametrize(
    ("compiles", "kinds", "offered"),
    [
        (False, None, KINDS),
        (True, None, ("plain", "prefix")),
        (True, ["warm"], ("plain", "warm")),
        (False, ["prefix_input"], ("plain", "prefix_input")),
    ],
)
def test_nothing_is_compiled_while_robots_wait(
    compiles: bool, kinds: list[str] | None, offered: tuple[str, ...]
) -> None:
    async def scenario(uri: str, held: Held, _: "asyncio.Task[None]", served: PolicyServer) -> None:
        prepared = set(held.kinds)
        robot = await greeted(uri)
        assert tuple(robot.welcome["kinds"]) == offered
        held.go.release(99)
        for kind in KINDS:
            example = held.example(kind)
            await robot.send(encode(plan_message(example, None)))
            found = await reply(robot)
            assert found["type"] == ("chunk" if kind in offered else "error")
            if kind not in offered:
                assert found["code"] == "kind"
                assert f"serve.kinds=[{','.join([*offered, kind])}]" in found["message"]
        if compiles:
            assert held.kinds == prepared
            assert prepared == {(kind, n) for kind in offered for n in (1, 4, 16)}
        await robot.close()

    play(scenario, ServeOptions(port=0, kinds=kinds), compiles=compiles)


bad_options = st.one_of(
    st.tuples(st.just("port"), not_whole | st.integers(max_value=-1) | st.integers(65536)),
    st.tuples(st.sampled_from(["max_clients", "max_errors"]), not_natural()),
    st.tuples(st.just("max_bytes"), not_natural().filter(lambda value: value is not None)),
    st.tuples(st.just("hello_timeout_s"), not_positive()),
    st.tuples(
        st.sampled_from(["idle_timeout_s", "max_wait_s"]),  # null is the protocol's own
        not_positive().filter(lambda value: value is not None),
    ),
    st.tuples(st.just("drain_s"), st.sampled_from([-1, float("nan"), float("inf"), True, "a"])),
    st.tuples(st.just("protocol"), st.sampled_from(["ros", "", 5, None, True])),
    st.tuples(st.sampled_from(["anonymous", "batching", "jpeg"]), not_a_flag),
    st.tuples(st.just("host"), st.sampled_from([None, 1, True, ["a"]])),
    st.tuples(st.just("token"), st.sampled_from(["", " ", 5, True, ["a"]])),
    st.tuples(st.just("kinds"), st.sampled_from(["plain", 5, ["cold"], [None], {"a": 1}])),
)


@given(bad_options)
def test_no_bad_option(case: tuple[str, Any]) -> None:
    name, value = case
    with pytest.raises(PcmError, match=rf"serve.{name}"):
        ServeOptions(**{name: value})


def test_goodbye_is_short() -> None:
    """Two waits of it are within the two seconds that a service manager is patient."""
    assert 2 * module.GOODBYE_S < 2
