"""One of several policy processes behind one address: both ends of its line to the parent.

Messages are JSON, one a line. The parent says ``do``: ``health`` (with a number, for the answer),
``drain`` or ``end``. The process says ``is``: ``ready``, ``failed``, ``health``, or ``left`` when a
connection that it was handed has ended.
"""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Any

from pcm_policy.serving.door import Door, Entrance, hand
from pcm_policy.serving.server import PolicyServer

Start = Callable[[socket.socket, socket.socket], BaseProcess]
"""Starts a process that serves what comes through a door, and has a line to its parent."""
ASK_S = 2.0
"""How long a process may take to say how it is."""


def packed(**message: Any) -> bytes:
    """Return a message as it is sent."""
    return json.dumps(message).encode() + b"\n"


async def serve_handed(server: PolicyServer, door: Door, line: socket.socket) -> None:
    """Serve the connections that a parent hands over, until it says so or has gone.

    SIGTERM asks for the same as the parent's ``drain``; Ctrl-C is the parent's to hear.
    """
    reader, writer = await asyncio.open_connection(sock=line)
    entrance = Entrance(door, lambda: writer.write(packed(**{"is": "left"})))
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(server.run(ready, entrance))
    task.add_done_callback(lambda _: ready.cancel())

    async def leave() -> None:
        if server.options.drain_s:
            await server.drain()
        task.cancel()

    leaving: list[asyncio.Task[None]] = []

    def drain() -> None:
        if not leaving:
            leaving.append(asyncio.create_task(leave()))

    async def obey() -> None:
        while (data := await reader.readline()) and (asked := json.loads(data))["do"] != "end":
            if asked["do"] == "drain":
                drain()
            else:
                said = {"is": "health", "number": asked["number"], "health": server.health()}
                writer.write(packed(**said))
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drain)
    obeying = asyncio.create_task(obey())
    await ready
    writer.write(packed(**{"is": "ready"}, **server.described()))
    try:
        await task
    finally:
        obeying.cancel()


class Member:
    """A policy process, as its parent sees it.

    Args:
        number: its place, from 0; another one takes it when it has died.
        start: starts it.

    Attributes:
        told: what it said when it was ready; empty until then.
        load: connections that it was handed and that have not ended.
        failed: why it could not start, if it said so.
        alive: whether it was there when it was last looked at.
    """

    def __init__(self, number: int, start: Start) -> None:
        self.number, self.load, self.alive = number, 0, True
        self.told: dict[str, Any] = {}
        self.failed: str | None = None
        self.ready = asyncio.Event()
        self._door, door = socket.socketpair()
        self._line, line = socket.socketpair()
        with door, line:
            self.process = start(door, line)
        self._door.setblocking(False)
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = count()

    async def listen(self) -> None:
        """Hear what it says until it has gone; :attr:`ready` is set at the end as well."""
        reader, self._writer = await asyncio.open_connection(sock=self._line)
        try:
            while data := await reader.readline():
                self._hear(json.loads(data))
        except (OSError, ValueError):  # it died in the middle of a line
            pass
        finally:
            self.alive = False
            self._door.close()
            self._writer.close()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(ConnectionError("it has gone"))
            self.ready.set()
        await asyncio.to_thread(self.process.join)

    def _hear(self, said: dict[str, Any]) -> None:
        if said["is"] == "left":
            self.load -= 1
        elif said["is"] == "health":
            answer = self._asked.pop(said["number"], None)
            if answer is not None and not answer.done():
                answer.set_result(said["health"])
        elif said["is"] == "failed":
            self.failed = said["why"]
        else:
            self.told = said
            self.ready.set()

    @property
    def open(self) -> bool:
        """Whether it takes connections."""
        return self.alive and bool(self.told)

    def take(self, connection: socket.socket) -> bool:
        """Hand a connection over; returns whether it went through."""
        try:
            hand(self._door, connection)
        except OSError:
            return False
        self.load += 1
        return True

    def say(self, **message: Any) -> None:
        """Send it a message, if it is there."""
        if self._writer is not None and self.alive:
            self._writer.write(packed(**message))

    async def health(self) -> dict[str, Any] | None:
        """Return what it says of itself; None if it says nothing in time."""
        if not self.open:
            return None
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self.say(do="health", number=number)
        with contextlib.suppress(TimeoutError, ConnectionError):
            return await asyncio.wait_for(answer, ASK_S)
        self._asked.pop(number, None)
        return None

    def describe_end(self) -> str:
        """Say how it ended."""
        if self.failed is not None:
            return self.failed
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"died (signal {-code})"
        return f"died (exit code {code})"
