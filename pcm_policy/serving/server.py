"""A policy over WebSocket: one connection a robot, every one with memory of its own.

How messages look is a :class:`~.protocol.WireProtocol`; clients share only the solver. Every
message of a client is answered by a plan, an error message or a closed connection.
"""

import asyncio
import contextlib
import hmac
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import PurePath
from typing import Any

from pcm_policy.control.wire import WireError
from pcm_policy.errors import PcmError
from pcm_policy.optional import require
from pcm_policy.serving.batcher import COMPILED_SIZES, SIZES, Batcher, measure, prepare
from pcm_policy.serving.door import Entrance
from pcm_policy.serving.metrics import CONTENT_TYPE, metrics
from pcm_policy.serving.openpi import OpenpiProtocol
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.pcm_protocol import PcmProtocol
from pcm_policy.serving.planner import KINDS, Planner
from pcm_policy.serving.protocol import Conversation, Service, WireProtocol
from pcm_policy.serving.vla_eval import VlaEvalProtocol

LOG = logging.getLogger("pcm_policy.serve")
PROTOCOLS: dict[str, type[WireProtocol]] = {
    "pcm": PcmProtocol,
    "openpi": OpenpiProtocol,
    "vla-eval": VlaEvalProtocol,
}
NOT_THEIR_FAULT = ("busy", "closing", "solve")
GOODBYE_S = 0.5  # for clients to be told that the server ends, and to hang up

DRAIN_LOOKS_S = 0.05


class PolicyServer:
    """Serves one planner.

    Args:
        planner: policy and solver.
        name: of the policy, for the handshake.
        options: how to serve.
    """

    def __init__(self, planner: Planner, name: str, options: ServeOptions) -> None:
        options.check(planner.spec)
        self.planner, self.options = planner, options
        speaks = PROTOCOLS[options.protocol]
        sizes: tuple[int, ...] = COMPILED_SIZES if planner.compiles else SIZES
        sizes = sizes if options.batching else (1,)
        kinds: Sequence[str] | None = options.kinds
        if kinds is None and planner.compiles:
            kinds = list(speaks.kinds)
        solved = list(KINDS if kinds is None else dict.fromkeys(["plain", *kinds]))
        if kinds is not None:
            prepare(planner, solved, sizes)
        self.cost_ms = measure(planner, sizes)
        self.batcher = Batcher(planner, self.cost_ms, options.max_wait_s or speaks.wait_s, solved)
        self.service = Service(
            planner,
            PurePath(name).name,  # where it lies is nobody's business
            options,
            self.batcher,
            self.cost_ms,
            solved,
            max_bytes=options.room(planner.spec),
            idle_s=options.idle_timeout_s or speaks.idle_s,
        )
        self.protocol = speaks(self.service)
        self.clients = 0
        self.errors: Counter[str] = Counter()
        self.draining = False
        self._sockets: set[Any] = set()
        self._begin = time.monotonic()

    async def run(
        self, ready: "asyncio.Future[int] | None" = None, entrance: Entrance | None = None
    ) -> None:
        """Serve until cancelled; ``ready`` gets the port.

        With an ``entrance`` another process listens, and hands connections over; the port is 0.

        When cancelled it ends within :data:`GOODBYE_S` whatever clients do: they are told, and
        whoever does not hang up then is cut off.
        """
        serve = require("websockets.asyncio.server", "pcm-serve", "serve").serve
        # it reports every malformed handshake with a traceback; we count them
        logging.getLogger("websockets.server").setLevel(logging.CRITICAL)
        options = self.options
        here = {"host": options.host, "port": options.port}
        solving = asyncio.create_task(self.batcher.run())
        try:
            server = await serve(
                self._client,
                process_request=self._admit,
                origins=[None],  # web pages, which send one, must not drive a robot
                max_size=self.service.max_bytes,
                max_queue=4,
                compression=None,
                open_timeout=options.hello_timeout_s,
                ping_interval=self.protocol.ping_s,
                ping_timeout=20,
                close_timeout=2,
                server_header="pcm-serve",
                **(here if entrance is None else entrance.settings()),
            )
        except OSError as error:
            solving.cancel()
            raise PcmError(f"cannot listen on {options.host}:{options.port}: {error}") from error
        try:
            if ready is not None:
                own = next(iter(server.sockets)).getsockname()
                ready.set_result(own[1] if entrance is None else 0)
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

    async def drain(self) -> None:
        """Let nobody else in, and wait until the last client hangs up, ``drain_s`` at most."""
        self.draining = True
        end = time.monotonic() + self.options.drain_s
        while self.clients and time.monotonic() < end:
            await asyncio.sleep(DRAIN_LOOKS_S)

    def described(self) -> dict[str, Any]:
        """Return ``name`` and solver (``label``), and milliseconds of a solve by batch size."""
        label = self.planner.solver.label
        return {"name": self.service.name, "label": label, "cost_ms": self.cost_ms}

    def health(self) -> dict[str, Any]:
        """Return what ``/healthz`` shows."""
        frames = {"frames": self.batcher.frames.to_json()} if self.planner.spec.cameras else {}
        return {
            **frames,
            "status": "draining" if self.draining else "ok",
            "policy": self.service.name,
            "clients": self.clients,
            "plans": self.service.plans,
            "errors": dict(self.errors),
            "uptime_s": round(time.monotonic() - self._begin, 3),
        }

    def _admit(self, connection: Any, request: Any) -> Any:
        """Answer plain HTTP, and refuse who may not enter; None lets a client in."""
        if request.path == "/healthz":
            code = HTTPStatus.SERVICE_UNAVAILABLE if self.draining else HTTPStatus.OK
            return connection.respond(code, json.dumps(self.health()) + "\n")
        if request.path == "/metrics":
            text = metrics(self.health(), self.planner.solver.label, self.cost_ms)
            answer = connection.respond(HTTPStatus.OK, text)
            del answer.headers["Content-Type"]
            answer.headers["Content-Type"] = CONTENT_TYPE
            return answer
        if self.draining:
            self.errors["draining"] += 1
            return connection.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the server is closing\n")
        if self.options.token:
            given = request.headers.get("Authorization", "").encode()
            if not hmac.compare_digest(
                given, f"{self.protocol.scheme} {self.options.token}".encode()
            ):
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
        talk = self.protocol.begin(socket)
        try:
            if await self._greet(socket, talk):
                await self._serve(socket, talk)
        except ConnectionClosed:
            pass
        except TimeoutError:
            self.errors["timeout"] += 1
            await socket.close(1008, "time-out")
        finally:
            self.clients -= 1
            self._sockets.discard(socket)
            self.batcher.forget(socket)

    async def _greet(self, socket: Any, talk: Conversation) -> bool:
        hello = None
        try:
            if self.protocol.hears_first:
                hello = await asyncio.wait_for(socket.recv(), self.options.hello_timeout_s)
            welcome = self.protocol.greeting(hello)
        except TimeoutError:
            self.errors["timeout"] += 1
            await socket.close(1008, "no hello: openpi's clients need serve.protocol=openpi")
            return False
        except WireError as error:
            await self._refuse(socket, error, talk)
            await socket.close(1008, "no handshake")
            return False
        await asyncio.wait_for(socket.send(welcome), self.service.idle_s)
        return True

    async def _serve(self, socket: Any, talk: Conversation) -> None:
        errors = 0
        while errors <= self.options.max_errors:
            data = await asyncio.wait_for(socket.recv(), self.service.idle_s)
            try:
                reply = await talk.answer(data, time.perf_counter())
            except WireError as error:
                errors += error.code not in NOT_THEIR_FAULT
                await self._refuse(socket, error, talk)
                if error.code == "closing":
                    return
                continue
            if reply is not None:
                await asyncio.wait_for(socket.send(reply), self.service.idle_s)
        await socket.close(1008, "too many errors")

    async def _refuse(self, socket: Any, error: WireError, talk: Conversation) -> None:
        self.errors[error.code] += 1
        LOG.info("refused: %s: %s", error.code, error)
        with contextlib.suppress(TimeoutError):
            answer = talk.refusal(error)
            await asyncio.wait_for(socket.send(answer), self.options.hello_timeout_s)
