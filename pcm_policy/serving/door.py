"""Connections that one process has accepted and another serves: how they are handed over."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.optional import require


class Door(socket.socket):
    """A listening socket, to asyncio, whose connections were accepted by another process.

    They come over a Unix socket, one at a time, as :func:`hand` sends them.
    """

    def listen(self, backlog: int = 0) -> None:
        """Do nothing: the other process listens."""

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection and the client's address, None if it has hung up.

        Raises:
            BlockingIOError: there is none.
            ConnectionAbortedError: the other process has gone.
        """
        _, handles, _, _ = socket.recv_fds(self, 1, 1)
        if not handles:
            raise ConnectionAbortedError("nobody hands connections over any more")
        taken = socket.socket(fileno=handles[0])
        try:
            return taken, taken.getpeername()
        except OSError:
            return taken, None


def hand(door: socket.socket, connection: socket.socket) -> None:
    """Send a connection through a door; the sender closes its own handle.

    Raises:
        OSError: the other process takes none.
    """
    socket.send_fds(door, [b"c"], [connection.fileno()])


@dataclass(frozen=True)
class Entrance:
    """Where a server has its connections from, if it does not listen itself.

    Attributes:
        door: gives them.
        left: is called when one of them has ended.
    """

    door: Door
    left: Callable[[], None]

    def settings(self) -> dict[str, Any]:
        """Return what websockets' ``serve`` is told."""
        name = "websockets.asyncio.server"
        base: Any = require(name, "pcm-serve", "serve").ServerConnection
        left = self.left

        class Handed(base):  # type: ignore[misc]
            def connection_lost(self, error: Exception | None) -> None:
                super().connection_lost(error)
                left()

        return {"sock": self.door, "create_connection": Handed}


def bound(host: str, port: int) -> list[socket.socket]:
    """Return sockets bound to all addresses of a host, which do not listen yet.

    Args:
        host: its name or address.
        port: the same for all; 0 takes a free one.

    Raises:
        PcmError: there is no such host, or the port is taken.
    """
    found: list[socket.socket] = []
    try:
        given = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in given:
            one = socket.socket(family, kind, protocol)
            found.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind((address[0], port, *address[2:]))
            one.setblocking(False)
            port = one.getsockname()[1]
    except OSError as error:
        for one in found:
            one.close()
        raise PcmError(f"cannot listen on {host}:{port}: {error}") from error
    return found
