"""A policy over WebSocket: one connection a robot, every one with memory of its own.

The controller itself (queue, limits, fallbacks) runs on the robot's side of the wire, in
:mod:`pcm_policy.control.client`, where it keeps working when this process is gone. Here each client
has what a solve needs of its last one, nothing is shared between clients but the solver, and
whatever a client sends ends in a plan, an error message or a closed connection.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from pcm_policy.control.safety import frame_fault
from pcm_policy.control.wire import (
    EXTRA,
    MAX_BYTES,
    VERSION,
    WireError,
    chunk_message,
    decode,
    encode,
    read_plan,
)
from pcm_policy.errors import PcmError
from pcm_policy.serving.batcher import SIZES, Batcher, measure
from pcm_policy.serving.planner import Planner

LOG = logging.getLogger("pcm_policy.serve")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEPT_MEMORIES = 2  # the plan accepted last, and the one after it


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: address to listen on.
        port: port; 0 takes a free one.
        token: clients must send it as ``Authorization: Bearer TOKEN``; None for no check.
        anonymous: allow addresses other than loopback without a token.
        max_clients: connections at a time.
        max_bytes: largest message.
        hello_timeout_s: time for the handshake.
        idle_timeout_s: a client that says nothing for this long is disconnected.
        max_errors: a client with more errors than this is disconnected.
        batching: solve the requests of several clients together where that is faster.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    token: str | None = None
    anonymous: bool = False
    max_clients: int = 32
    max_bytes: int = MAX_BYTES
    hello_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0
    max_errors: int = 20
    batching: bool = True

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.token and not self.anonymous:
            raise PcmError(
                f"host={self.host} can be reached by others: give token=..., or anonymous=true"
            )
        if not 0 <= self.port < 65536 or min(self.max_clients, self.max_errors) < 1:
            raise PcmError("port lies in 0...65535; max_clients and max_errors are at least 1")
        if min(self.hello_timeout_s, self.idle_timeout_s) <= 0 or self.max_bytes < 1024:
            raise PcmError("time-outs are positive, max_bytes is at least 1024")


class PolicyServer:
    """Serves one planner.

    Args:
        planner: policy and solver.
        name: of the policy, for the handshake.
        options: how to serve.
    """

    def __init__(self, planner: Planner, name: str, options: ServeOptions) -> None:
        self.planner, self.name, self.options = planner, name, options
        self.cost_ms = measure(planner, SIZES if options.batching else (1,))
        self.batcher = Batcher(planner, self.cost_ms)
        self.clients = 0
        self.plans = 0
        self.errors: Counter[str] = Counter()
        self._begin = time.monotonic()

    async def run(self, ready: "asyncio.Future[int] | None" = None) -> None:
        """Serve until cancelled; ``ready`` gets the port."""
        try:
            from websockets.asyncio.server import serve
        except ImportError as error:
            raise PcmError(f"pcm-serve needs websockets: {EXTRA}") from error
        # it reports every malformed handshake with a traceback; we count them
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        options = self.options
        solving = asyncio.create_task(self.batcher.run())
        try:
            async with serve(
                self._client,
                options.host,
                options.port,
                process_request=self._admit,
                max_size=options.max_bytes,
                max_queue=4,
                compression=None,
                open_timeout=options.hello_timeout_s,
                ping_interval=20,
                ping_timeout=20,
                close_timeout=2,
                server_header="pcm-serve",
            ) as server:
                if ready is not None:
                    ready.set_result(next(iter(server.sockets)).getsockname()[1])
                await solving
        except OSError as error:
            raise PcmError(f"cannot listen on {options.host}:{options.port}: {error}") from error
        finally:
            solving.cancel()
            self.batcher.close()

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` shows."""
        return {
            "status": "ok",
            "policy": self.name,
            "clients": self.clients,
            "plans": self.plans,
            "errors": dict(self.errors),
            "uptime_s": round(time.monotonic() - self._begin, 3),
        }

    def _admit(self, connection: Any, request: Any) -> Any:
        """Answer plain HTTP, and refuse who may not enter; None lets a client in."""
        if request.path == "/healthz":
            return connection.respond(HTTPStatus.OK, json.dumps(self.health()) + "\n")
        if self.options.token:
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(given, f"Bearer {self.options.token}".encode()):
                self.errors["token"] += 1
                return connection.respond(HTTPStatus.UNAUTHORIZED, "wrong or missing token\n")
        if self.clients >= self.options.max_clients:
            self.errors["full"] += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "too many clients\n")
        return None

    async def _client(self, socket: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        self.clients += 1
        try:
            if await self._greet(socket):
                await self._serve(socket)
        except ConnectionClosed:
            pass
        except TimeoutError:
            self.errors["timeout"] += 1
            await socket.close(1008, "time-out")
        finally:
            self.clients -= 1

    async def _greet(self, socket: Any) -> bool:
        options, spec = self.options, self.planner.spec
        try:
            hello = decode(await asyncio.wait_for(socket.recv(), options.hello_timeout_s))
            if hello["type"] != "hello":
                raise WireError("type", "the first message is a hello")
            if hello.get("version") != VERSION:
                raise WireError("version", f"this server speaks version {VERSION}")
        except WireError as error:
            await self._refuse(socket, error, None)
            await socket.close(1008, "no handshake")
            return False
        welcome = {
            "type": "welcome",
            "version": VERSION,
            "policy": self.name,
            "spec": spec.to_dict(),
            "solver": self.planner.solver.label,
            "latency_ms": self.cost_ms[1],
            "limits": {"max_bytes": options.max_bytes, "idle_timeout_s": options.idle_timeout_s},
        }
        await asyncio.wait_for(socket.send(encode(welcome)), options.idle_timeout_s)
        return True

    async def _serve(self, socket: Any) -> None:
        memories: OrderedDict[int, Any] = OrderedDict()
        errors = 0
        while errors <= self.options.max_errors:
            data = await asyncio.wait_for(socket.recv(), self.options.idle_timeout_s)
            came, number = time.perf_counter(), None
            try:
                message = decode(data)
                if type(message.get("id")) is int:
                    number = message["id"]
                if message["type"] != "plan":
                    raise WireError("type", f"unknown message type {message['type'][:40]!r}")
                reply = await self._plan(message, memories, came)
            except WireError as error:
                errors += 1
                await self._refuse(socket, error, number)
                continue
            await asyncio.wait_for(socket.send(reply), self.options.idle_timeout_s)
        await socket.close(1008, "too many errors")

    async def _plan(
        self, message: dict[str, Any], memories: "OrderedDict[int, Any]", came: float
    ) -> bytes:
        spec = self.planner.spec
        request, after = read_plan(message, spec)
        for frame in request.obs:
            fault = frame_fault(frame, spec)
            if fault is not None:
                raise WireError("value", fault)
        if after is not None:
            request = replace(request, memory=memories.get(after))
        try:
            served = await self.batcher.plan(request)
        except RuntimeError as error:
            raise WireError("solve", str(error)) from error
        plan = served.plan
        if plan.fault is not None:
            raise WireError("solve", plan.fault)
        memories[plan.id] = plan.memory
        while len(memories) > KEPT_MEMORIES:
            # the plan that the client stands on stays, however many it asked for since
            oldest = next(key for key in memories if key != after)
            del memories[oldest]
        self.plans += 1
        timing = {
            "queue_ms": served.queue_ms,
            "solve_ms": served.solve_ms,
            "total_ms": (time.perf_counter() - came) * 1e3,
            "batch": served.batch,
        }
        return encode(chunk_message(plan, timing))

    async def _refuse(self, socket: Any, error: WireError, number: int | None) -> None:
        self.errors[error.code] += 1
        LOG.info("refused: %s: %s", error.code, error)
        text = {"type": "error", "id": number, "code": error.code, "message": str(error)[:500]}
        if number is not None and abs(number) >= 2**63:
            text["id"] = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(socket.send(encode(text)), self.options.hello_timeout_s)
