"""Our own protocol, for the controllers of :mod:`pcm_policy.control`.

The controller itself (queue, limits, fallbacks) runs on the robot's side and keeps working when
the server is gone. The server stores for each client what the next solve needs of its last one.
The messages are described in :mod:`pcm_policy.control.wire`.
"""

from collections.abc import Mapping
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
from pcm_policy.serving.protocol import Conversation, Service, WireProtocol, timing
from pcm_policy.serving.session import Session


class PcmProtocol(WireProtocol):
    """Plans for controllers: known prefixes, warm starts, frames sent ahead of their request."""

    scheme = "Bearer"
    hears_first = True
    kinds = ("plain", "prefix")
    idle_s = 60.0
    wait_s = 1.0

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.forms = FORMS if service.options.jpeg else FORMS[:1]

    def greeting(self, data: Any) -> bytes:
        """Return the welcome that answers a hello."""
        hello = decode(data)
        if hello["type"] != "hello":
            raise WireError("type", "the first message is a hello")
        if hello.get("version") != VERSION:
            raise WireError("version", f"this server speaks version {VERSION}")
        service, spec = self.service, self.service.planner.spec
        welcome = {
            "type": "welcome",
            "version": VERSION,
            "policy": service.name,
            "spec": spec.to_dict(),
            "solver": service.planner.solver.label,
            "latency_ms": service.cost_ms[1],
            "kinds": service.kinds,
            "images": list(self.forms) if spec.cameras else [],
            "limits": {"max_bytes": service.max_bytes, "idle_timeout_s": service.idle_s},
        }
        return encode(welcome)

    def begin(self, socket: Any) -> Conversation:
        """Return a connection that remembers nothing yet."""
        return PcmConversation(self.service, self.forms, socket)


class PcmConversation(Conversation):
    """One robot's connection.

    Args:
        service: what connections share.
        forms: in which images are taken.
        socket: the connection.
    """

    def __init__(self, service: Service, forms: tuple[str, ...], socket: Any) -> None:
        self._service, self._socket = service, socket
        self._session = Session(service.planner.spec, forms)
        self._number: int | None = None  # of the message that is being answered

    async def answer(self, data: Any, came: float) -> bytes:
        """Return a plan, or that a frame was seen."""
        self._number = None
        message = decode(data)
        if type(message.get("id")) is int:
            self._number = message["id"]
        if message["type"] == "frame":
            frame = self._session.frame(message)
            room = self._service.planner.spec.obs_steps
            dropped = self._service.batcher.show(frame, self._socket, room)
            return encode({"type": "seen", "number": frame.number, "dropped": dropped})
        if message["type"] == "plan":
            return await self._plan(message, came)
        raise WireError("type", f"unknown message type {message['type'][:40]!r}")

    async def _plan(self, message: Mapping[str, Any], came: float) -> bytes:
        request, after = self._session.request(message)
        served = await self._service.plan(request, self._socket, read_patience(message))
        self._session.remember(served.plan, after)
        return encode(chunk_message(served.plan, timing(served, came)))

    def refusal(self, error: WireError) -> bytes:
        """Return the message of an error."""
        number = self._number
        if number is not None and abs(number) >= 2**63:
            number = None
        return encode(
            {"type": "error", "id": number, "code": error.code, "message": str(error)[:500]}
        )
