"""The protocol of vla-eval's harness: an observation in, one action out, episode by episode.

Messages are encoded as :mod:`pcm_policy.serving.vla_eval_wire` says; after a connection is open:

1. client ``hello``; server ``hello``.
2. client ``episode_start`` with the task, whose ``episode_idx`` names the noise together with
   ``serve.observe.seed``; no answer.
3. client ``observation``; server ``action`` with ``actions (Da,)``, or ``error`` with what is
   wrong. A task's description is ignored: no policy of ours reads language.
4. client ``episode_end``; no answer. The next episode may follow.

History and chunk are those of the connection. Every shard of a run has one of its own, so that the
observations of shards are solved together.
"""

from collections.abc import Mapping
from typing import Any

from pcm_policy.control.wire import LARGEST, WireError, natural
from pcm_policy.serving.loop import Loop
from pcm_policy.serving.observation import Reader
from pcm_policy.serving.protocol import Conversation, Service, WireProtocol
from pcm_policy.serving.vla_eval_wire import (
    PROTOCOL_VERSION,
    entries_of,
    pack,
    read_array,
    reads_images,
    unpack,
)


class VlaEvalProtocol(WireProtocol):
    """Actions for vla-eval's episodes."""

    scheme = "Bearer"  # of a proxy: vla-eval's own client sends none
    hears_first = True
    kinds = ("plain",)
    idle_s = 3600.0
    wait_s = 25.0  # its client gives up after 30
    ping_s = None  # a simulator's step or reset holds up its client's loop

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        options = service.options
        images = reads_images(jpeg=options.jpeg)
        self._reader = Reader(
            service.planner.spec, options.observe, read_array, images, "images/{}"
        )

    def greeting(self, data: Any) -> bytes:
        """Return the hello that answers one."""
        kind, payload, seq = unpack(data)
        if kind != "hello":
            raise WireError("type", "the first message is a hello")
        return self.hello(payload, seq)

    def hello(self, payload: Mapping[str, Any], seq: int) -> bytes:
        """Return the answer to a hello.

        Raises:
            WireError: it is of another version.
        """
        if payload.get("protocol_version") != PROTOCOL_VERSION:
            raise WireError("version", f"this server speaks version {PROTOCOL_VERSION}")
        service, spec = self.service, self.service.planner.spec
        told = {
            "harness_version": "pcm_policy",
            "protocol_version": PROTOCOL_VERSION,
            "model_server": service.name,
            "capabilities": {},
            "solver": service.planner.solver.label,
            "images": {key: [*spec.cameras[name], 3] for name, key in self._reader.keys.items()},
            "state": list(self._reader.fields),
            "replan_steps": self.replan_steps,
            "seed": service.options.observe.seed,
        }
        return pack("hello", told, seq)

    @property
    def replan_steps(self) -> int:
        """Observations for which a chunk is used."""
        asked = self.service.options.observe.replan_steps
        return asked or self.service.planner.spec.action_steps

    def begin(self, socket: Any) -> Conversation:
        """Return a connection in which no episode has begun."""
        seed = self.service.options.observe.seed
        return VlaEvalConversation(
            self, self._reader, Loop(self.service, socket, self.replan_steps, seed)
        )


class VlaEvalConversation(Conversation):
    """One shard's connection.

    Args:
        protocol: answers a hello.
        reader: reads observations.
        loop: answers them.
    """

    def __init__(self, protocol: VlaEvalProtocol, reader: Reader, loop: Loop) -> None:
        self._protocol, self._read, self._loop = protocol, reader, loop
        self._first_seed, self._begun, self._seq = loop.seed, False, 0

    async def answer(self, data: Any, came: float) -> bytes | None:
        """Return an action for an observation; begin and end episodes."""
        self._seq = 0
        kind, payload, self._seq = unpack(data)
        if kind == "observation":
            if not self._begun:  # a connection that was lost has lost its history
                raise WireError("field", "no episode has begun on this connection")
            turn = await self._loop.act(self._read(entries_of(payload)), came)
            return pack("action", {"actions": turn.actions[0]}, self._seq)
        if kind == "hello":
            return self._protocol.hello(payload, self._seq)
        if kind in ("episode_start", "episode_end"):
            self._begun = False
            if kind == "episode_start":
                self._loop.begin(self._seed(payload.get("task")))
                self._begun = True
            return None
        raise WireError("type", f"unknown message type {kind[:40]!r}")

    def refusal(self, error: WireError) -> bytes:
        """Return the message of an error, which ends an episode."""
        return pack("error", {"error": f"{error.code}: {str(error)[:500]}"}, self._seq)

    def _seed(self, task: Any) -> int:
        if not isinstance(task, dict):
            raise WireError("field", "an episode begins with a task")
        number = natural({"episode_idx": 0, **task}, "episode_idx")
        return (self._first_seed + number) % LARGEST
