"""What a protocol of a policy server is, and what its connections share."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pcm_policy.control.plan import PlanRequest
from pcm_policy.control.wire import WireError
from pcm_policy.serving.batcher import Batcher, Refused, Served
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner


@dataclass
class Service:
    """What the connections of a server share.

    Attributes:
        planner: policy and solver.
        name: of the policy.
        options: how to serve.
        batcher: solves, one client's requests with another's.
        cost_ms: milliseconds of a solve by batch size.
        kinds: kinds of requests that are solved.
        max_bytes: largest message.
        idle_s: a client that says nothing for this long is disconnected.
        plans: solved so far.
    """

    planner: Planner
    name: str
    options: ServeOptions
    batcher: Batcher
    cost_ms: Mapping[int, float]
    kinds: list[str]
    max_bytes: int
    idle_s: float
    plans: int = 0

    async def plan(
        self, request: PlanRequest, socket: Any, patience_s: float = float("inf")
    ) -> Served:
        """Solve a request of a connection, alone or with those of others.

        Args:
            request: what is asked.
            socket: who asks; the request is dropped when it hangs up.
            patience_s: time after which an answer is of no use.

        Raises:
            WireError: the server is busy or closing, or the solve failed.
            ConnectionClosed: the client has gone.
        """
        try:
            served = await _while_open(socket, self.batcher.plan(request, socket, patience_s))
        except Refused as error:
            raise WireError(error.code, str(error)) from error
        if served.plan.fault is not None:
            raise WireError("solve", served.plan.fault)
        self.plans += 1
        return served


def timing(served: Served, came: float) -> dict[str, float]:
    """Return the milliseconds of a plan: each includes the device's own work.

    A solve ends when its actions are on the CPU, so that nothing is still under way on the device.

    Args:
        served: the plan.
        came: when its message came, ``time.perf_counter``.
    """
    return {
        "queue_ms": served.queue_ms,
        "solve_ms": served.solve_ms,
        "encode_ms": served.plan.encode_ms,
        "total_ms": (time.perf_counter() - came) * 1e3,
        "batch": served.batch,
    }


class Conversation(ABC):
    """One connection, from its first message after the greeting to its end."""

    @abstractmethod
    async def answer(self, data: Any, came: float) -> bytes | None:
        """Return the answer to a message; None where none is expected.

        Args:
            data: the message, bytes or text.
            came: when it came, ``time.perf_counter``.

        Raises:
            WireError: it is not what it should be, or cannot be answered.
            ConnectionClosed: the client has gone.
        """

    @abstractmethod
    def refusal(self, error: WireError) -> bytes | str:
        """Return what a client is told instead of an answer."""


class WireProtocol(ABC):
    """How messages look, and what a client may expect of the server.

    Args:
        service: what connections share.

    Raises:
        PcmError: settings that do not fit the policy.
    """

    scheme: ClassVar[str]
    """Of the ``Authorization`` header that holds the token."""
    hears_first: ClassVar[bool]
    """Whether the client speaks first."""
    kinds: ClassVar[tuple[str, ...]]
    """Kinds of requests that are prepared where every kind is compiled."""
    idle_s: ClassVar[float]
    """Silence after which a client is disconnected, where the settings do not say."""
    wait_s: ClassVar[float]
    """Longest wait for a solve, where the settings do not say."""
    ping_s: ClassVar[float | None] = 20.0
    """Clients are asked this often whether they live; None where they may be too busy to say."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @abstractmethod
    def greeting(self, data: Any) -> bytes:
        """Return the server's first message.

        Args:
            data: the client's first message; None where the server speaks first.

        Raises:
            WireError: the client's first message is not what it should be.
        """

    @abstractmethod
    def begin(self, socket: Any) -> Conversation:
        """Return what talks with a new connection."""


async def _while_open(socket: Any, work: Coroutine[Any, Any, Served]) -> Served:
    """Return what ``work`` returns; end it when the client hangs up, who wants nothing any more.

    Raises:
        ConnectionClosed: the client has gone.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(socket.wait_closed())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise socket.protocol.close_exc
        return await task
    finally:
        task.cancel()
        gone.cancel()
