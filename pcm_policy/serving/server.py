"""A policy over WebSocket: one connection a robot, every one with memory of its own.

The controller itself (queue, limits, fallbacks) runs on the robot's side, in
:mod:`pcm_policy.control.client`, and keeps working when this process is gone. The server stores for
each client what the next solve needs of its last one. Clients share only the solver. Every message
of a client is answered by a plan, an error message or a closed connection.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from http import HTTPStatus
from pathlib import PurePath
from typing import Any

from pcm_policy.control.images import FORMS
from pcm_policy.control.wire import (
    VERSION,
    WireError,
    chunk_message,
    decode,
    encode,
    read_patience,
)
from pcm_policy.errors import PcmError
from pcm_policy.optional import require
from pcm_policy.serving.batcher import (
    COMPILED_SIZES,
    SIZES,
    Batcher,
    Refused,
    Served,
    measure,
    prepare,
)
from pcm_policy.serving.options import PREPARED, ServeOptions
from pcm_policy.serving.planner import KINDS, Planner
from pcm_policy.serving.session import Session

LOG = logging.getLogger("pcm_policy.serve")
NOT_THEIR_FAULT = ("busy", "closing", "solve")
GOODBYE_S = 0.5  # for clients to be told that the server ends, and to hang up


class PolicyServer:
    """Serves one planner.

    Args:
        planner: policy and solver.
        name: of the policy, for the handshake.
        options: how to serve.
    """

    def __init__(self, planner: Planner, name: str, options: ServeOptions) -> None:
        self.planner, self.options = planner, options
        self.max_bytes = options.room(planner.spec)
        self.forms = FORMS if options.jpeg else FORMS[:1]
        self.name = PurePath(name).name  # where it lies is nobody's business
        sizes: tuple[int, ...] = COMPILED_SIZES if planner.compiles else SIZES
        sizes = sizes if options.batching else (1,)
        kinds: Sequence[str] | None = options.kinds
        if kinds is None and planner.compiles:
            kinds = list(PREPARED)
        self.kinds = list(KINDS if kinds is None else dict.fromkeys(["plain", *kinds]))
        if kinds is not None:
            prepare(planner, self.kinds, sizes)
        self.cost_ms = measure(planner, sizes)
        self.batcher = Batcher(planner, self.cost_ms, options.max_wait_s, self.kinds)
        self.clients = 0
        self.plans = 0
        self.errors: Counter[str] = Counter()
        self._sockets: set[Any] = set()
        self._begin = time.monotonic()

    async def run(self, ready: "asyncio.Future[int] | None" = None) -> None:
        """Serve until cancelled; ``ready`` gets the port.

        When cancelled it ends within :data:`GOODBYE_S` whatever clients do: they are told, and
        whoever does not hang up then is cut off.
        """
        serve = require("websockets.asyncio.server", "pcm-serve", "serve").serve
        # it reports every malformed handshake with a traceback; we count them
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        options = self.options
        solving = asyncio.create_task(self.batcher.run())
        try:
            server = await serve(
                self._client,
                options.host,
                options.port,
                process_request=self._admit,
                origins=[None],  # web pages, which send one, must not drive a robot
                max_size=self.max_bytes,
                max_queue=4,
                compression=None,
                open_timeout=options.hello_timeout_s,
                ping_interval=20,
                ping_timeout=20,
                close_timeout=2,
                server_header="pcm-serve",
            )
        except OSError as error:
            solving.cancel()
            raise PcmError(f"cannot listen on {options.host}:{options.port}: {error}") from error
        try:
            if ready is not None:
                ready.set_result(next(iter(server.sockets)).getsockname()[1])
            await solving
        finally:
            solving.cancel()
            self.batcher.close()
            await self._goodbye(server)

    async def _goodbye(self, server: Any) -> None:
        """Tell the clients that this is the end, and cut off who does not hang up."""
        await asyncio.sleep(0)  # those who wait for a plan are told that there will be none
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(server.wait_closed()), GOODBYE_S)
        for socket in list(self._sockets):
            socket.transport.abort()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), GOODBYE_S)

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` shows."""
        frames = {"frames": self.batcher.frames.to_json()} if self.planner.spec.cameras else {}
        return {
            **frames,
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
        self._sockets.add(socket)
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
            self._sockets.discard(socket)
            self.batcher.forget(socket)

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
            "kinds": self.kinds,
            "images": list(self.forms) if spec.cameras else [],
            "limits": {"max_bytes": self.max_bytes, "idle_timeout_s": options.idle_timeout_s},
        }
        await asyncio.wait_for(socket.send(encode(welcome)), options.idle_timeout_s)
        return True

    async def _serve(self, socket: Any) -> None:
        session = Session(self.planner.spec, self.forms)
        errors = 0
        while errors <= self.options.max_errors:
            data = await asyncio.wait_for(socket.recv(), self.options.idle_timeout_s)
            came, number = time.perf_counter(), None
            try:
                message = decode(data)
                if type(message.get("id")) is int:
                    number = message["id"]
                reply = await self._answer(socket, message, session, came)
            except WireError as error:
                errors += error.code not in NOT_THEIR_FAULT
                await self._refuse(socket, error, number)
                if error.code == "closing":
                    return
                continue
            await asyncio.wait_for(socket.send(reply), self.options.idle_timeout_s)
        await socket.close(1008, "too many errors")

    async def _answer(
        self, socket: Any, message: dict[str, Any], session: Session, came: float
    ) -> bytes:
        if message["type"] == "frame":
            frame = session.frame(message)
            dropped = self.batcher.show(frame, socket, self.planner.spec.obs_steps)
            return encode({"type": "seen", "number": frame.number, "dropped": dropped})
        if message["type"] == "plan":
            return await self._plan(socket, message, session, came)
        raise WireError("type", f"unknown message type {message['type'][:40]!r}")

    async def _plan(
        self, socket: Any, message: dict[str, Any], session: Session, came: float
    ) -> bytes:
        request, after = session.request(message)
        patience = read_patience(message)
        try:
            served = await _while_open(socket, self.batcher.plan(request, socket, patience))
        except Refused as error:
            raise WireError(error.code, str(error)) from error
        plan = served.plan
        if plan.fault is not None:
            raise WireError("solve", plan.fault)
        session.remember(plan, after)
        self.plans += 1
        timing = {
            "queue_ms": served.queue_ms,
            "solve_ms": served.solve_ms,
            "encode_ms": plan.encode_ms,
            "total_ms": (time.perf_counter() - came) * 1e3,
            "batch": served.batch,
        }
        return encode(chunk_message(plan, timing))

    async def _refuse(self, socket: Any, error: WireError, number: int | None) -> None:
        self.errors[error.code] += 1
        LOG.info("refused: %s: %s", error.code, error)
        answer = {"type": "error", "id": number, "code": error.code, "message": str(error)[:500]}
        if number is not None and abs(number) >= 2**63:
            answer["id"] = None
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(socket.send(encode(answer)), self.options.hello_timeout_s)


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
