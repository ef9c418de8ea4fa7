"""Several policy processes behind one address.

This process accepts connections and gives each to the process that has the fewest; robot and
process then talk without it. It answers ``/healthz`` and ``/metrics`` for all, and starts a process
again that has died: the robots of that one lose their connections and connect again.
"""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections import Counter
from http import HTTPStatus
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.serving.door import bound
from pcm_policy.serving.member import Member, Start
from pcm_policy.serving.metrics import CONTENT_TYPE, Family, families, labelled, merged, written
from pcm_policy.serving.options import ServeOptions

LOG = logging.getLogger("pcm_policy.serve")
BACKLOG = 100
PAUSES_S = (0.5, 30.0)
"""Before a process is started again: at first, and at most; doubled while it dies soon."""
SOON_S = 60.0
GOODBYE_S = 1.8
"""For the processes to end; a service manager is patient for two seconds."""
LOOKS_S = (0.001, 0.05)
PATHS = (b"GET /healthz ", b"GET /metrics ")
LONGEST = max(map(len, PATHS))
GONE = (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError)
"""A client that hangs up, is silent, or asks with a header of no end."""
Health = dict[str, Any]


class Fleet:
    """Policy processes, and the address that they share.

    Args:
        start: starts one.
        options: how to serve; ``max_clients`` counts those of all processes.

    Attributes:
        members: the processes, by their places.
        restarts: how many processes were started again.
    """

    def __init__(self, start: Start, options: ServeOptions) -> None:
        self.options, self._start = options, start
        self.members: dict[int, Member] = {}
        self.errors: Counter[str] = Counter()
        self.restarts, self.draining, self._ending = 0, False, asyncio.Event()
        self._begin = time.monotonic()
        self._watching: dict[int, asyncio.Task[None]] = {}
        self._admitting: set[asyncio.Task[None]] = set()

    async def run(self, ready: "asyncio.Future[int] | None" = None) -> None:
        """Serve until cancelled; ``ready`` gets the port when all processes are ready.

        Raises:
            PcmError: the address is taken, or a process cannot start.
        """
        sockets = bound(self.options.host, self.options.port)
        try:
            await self._started(0)  # alone: what is wrong is said once
            rest = range(1, self.options.processes)
            await asyncio.gather(*(self._started(number) for number in rest))
            for one in sockets:
                one.listen(BACKLOG)
            if ready is not None:
                ready.set_result(sockets[0].getsockname()[1])
            await asyncio.gather(*map(self._accept, sockets))
        finally:
            for one in sockets:
                one.close()
            await self._end()

    async def _started(self, number: int) -> None:
        """Start a process and wait until it is ready.

        Raises:
            PcmError: it cannot start.
        """
        member = self._member(number)
        self._watching[number] = asyncio.create_task(self._watch(member))
        await member.ready.wait()
        if not member.told:
            await self._watching[number]
            ended = f"policy process {number} {member.describe_end()} at its start"
            raise PcmError(member.failed or ended)

    def _member(self, number: int) -> Member:
        self.members[number] = member = Member(number, self._start)
        return member

    async def _watch(self, member: Member) -> None:
        """Keep a place filled: start a process again when it has died."""
        pause, first = PAUSES_S[0], member
        while True:
            began = time.monotonic()
            await member.listen()
            if self._ending.is_set() or not first.told:
                return
            pause = PAUSES_S[0] if time.monotonic() - began > SOON_S else pause
            LOG.warning(
                "policy process %d %s: it is started again in %g s, and its robots connect again",
                member.number,
                member.describe_end(),
                pause,
            )
            found = await self._again(member.number, pause)
            if found is None:
                return
            member, pause = found, min(2 * pause, PAUSES_S[1])
            self.restarts += 1

    async def _again(self, number: int, pause: float) -> Member | None:
        """Start a process again, after a pause that grows while that fails; None at the end."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)
                return None
            try:
                return self._member(number)
            except OSError as error:  # no memory, or no handle, for another process
                LOG.warning("policy process %d cannot be started: %s", number, error)
                pause = min(2 * pause, PAUSES_S[1])

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            except OSError as error:  # no handle for another connection, until one is closed
                LOG.warning("a connection was not accepted: %s", error)
                await asyncio.sleep(LOOKS_S[1])
                continue
            admitting = asyncio.create_task(self._admit(connection))
            self._admitting.add(admitting)
            admitting.add_done_callback(self._admitting.discard)

    async def _admit(self, connection: socket.socket) -> None:
        """Answer plain HTTP, and give others to a process."""
        with connection, contextlib.suppress(*GONE):
            async with asyncio.timeout(self.options.hello_timeout_s):
                begin = await _beginning(connection)
                if begin == PATHS[0]:
                    health = await self.health()
                    fine = health["status"] == "ok"
                    status = HTTPStatus.OK if fine else HTTPStatus.SERVICE_UNAVAILABLE
                    await _answer(connection, status, json.dumps(health) + "\n")
                elif begin == PATHS[1]:
                    await _answer(connection, HTTPStatus.OK, await self.metrics(), CONTENT_TYPE)
                elif begin and (why := self._given(connection)) is not None:
                    await _answer(connection, HTTPStatus.SERVICE_UNAVAILABLE, why + "\n")

    def _given(self, connection: socket.socket) -> str | None:
        """Give a connection to the process that has the fewest; returns why it was not."""
        if self.draining:
            self.errors["draining"] += 1
            return "the server is closing"
        there = sorted((m for m in self.members.values() if m.open), key=lambda m: m.load)
        if sum(member.load for member in there) >= self.options.max_clients:
            self.errors["full"] += 1
            return "too many clients"
        if any(member.take(connection) for member in there):
            return None
        self.errors["unready"] += 1
        return "no policy process is ready: connect again"

    def described(self) -> dict[str, Any]:
        """Return what :meth:`.PolicyServer.described` does, of the first process."""
        return dict(self.members[0].told) | {"cost_ms": self._costs(0)[1]}

    async def drain(self) -> None:
        """Let nobody else in, and wait until the last process has ended."""
        self.draining = True
        self._ending.set()
        for member in self.members.values():
            member.say(do="drain" if member.open else "end")
        await asyncio.gather(*self._watching.values())

    async def _end(self) -> None:
        """End all processes; those that do not in time are killed."""
        self._ending.set()
        for member in self.members.values():
            member.say(do="end")
        if self._watching:
            await asyncio.wait(self._watching.values(), timeout=GOODBYE_S)
        for member in self.members.values():
            member.process.kill()
        for task in (*self._watching.values(), *self._admitting):
            task.cancel()

    async def _told(self) -> dict[int, Health | None]:
        members = list(self.members.values())
        found = await asyncio.gather(*(member.health() for member in members))
        return {m.number: health for m, health in zip(members, found, strict=True)}

    async def health(self) -> Health:
        """Return what ``/healthz`` shows: of all together, and of every process."""
        told = await self._told()
        return together(told, self.draining) | {
            "errors": dict(sum((Counter(h["errors"]) for h in told.values() if h), self.errors)),
            "restarts": self.restarts,
            "uptime_s": round(time.monotonic() - self._begin, 3),
            "processes": [health or {"status": "gone"} for health in told.values()],
        }

    async def metrics(self) -> str:
        """Return what ``/metrics`` shows: of every process, with its place as a label."""
        told = await self._told()
        parts = [
            labelled(families(health, *self._costs(number)), process=str(number))
            for number, health in told.items()
            if health is not None
        ]
        refused = [({"process": "front", "code": c}, n) for c, n in sorted(self.errors.items())]
        own = [
            Family("processes", "gauge", "Policy processes that serve.", [({}, len(parts))]),
            Family("restarts_total", "counter", "Policy processes started again.",
                   [({}, self.restarts)]),
        ]  # fmt: skip
        about = "Refusals and errors, by code."
        return written(merged(*parts, [Family("errors_total", "counter", about, refused)], own))

    def _costs(self, number: int) -> tuple[str, dict[int, float]]:
        told = self.members[number].told
        return told["label"], {int(size): ms for size, ms in told["cost_ms"].items()}


def together(told: dict[int, Health | None], draining: bool) -> Health:
    """Return what processes say of themselves, added up.

    Args:
        told: what each says, None for one that says nothing.
        draining: whether the server lets nobody in any more.
    """
    there = [health for health in told.values() if health is not None]
    status = "draining" if draining else "ok" if there else "starting"
    return {
        "status": status,
        "policy": there[0]["policy"] if there else None,
        "clients": sum(health["clients"] for health in there),
        "plans": sum(health["plans"] for health in there),
    }


async def _beginning(connection: socket.socket) -> bytes:
    """Return how a client begins, as far as it matters; it stays where it is."""
    pause = LOOKS_S[0]
    while True:
        with contextlib.suppress(BlockingIOError):
            seen = connection.recv(LONGEST, socket.MSG_PEEK)
            if not any(path.startswith(seen) and seen != path for path in PATHS) or not seen:
                return seen
        await asyncio.sleep(pause)
        pause = min(2 * pause, LOOKS_S[1])


async def _answer(
    connection: socket.socket, status: HTTPStatus, text: str, kind: str = "text/plain"
) -> None:
    """Answer a request of plain HTTP, and close its connection."""
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        await reader.readuntil(b"\r\n\r\n")  # what is left unread would break the answer off
        body = text.encode()
        head = [
            f"HTTP/1.1 {status.value} {status.phrase}",
            f"Content-Type: {kind}",
            f"Content-Length: {len(body)}",
            "Connection: close",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()
    finally:
        writer.close()
        await writer.wait_closed()
