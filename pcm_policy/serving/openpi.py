"""openpi's protocol: an observation in, a chunk of actions out.

The client is the robot's loop itself, as in openpi's examples: it waits for every answer. Messages
are encoded as :mod:`pcm_policy.serving.openpi_wire` says; after a connection is open:

1. server: a map that says what the policy takes and gives.
2. client: an observation. Its images are uint8, height, width and channels last or channels first,
   its numbers are the policy's entries; ``serve.observe`` says what they are called. A ``prompt``
   is ignored: no policy of ours reads language. Other entries are ignored too, except
   ``pcm/reset`` (true begins an episode), ``pcm/seed`` and ``pcm/tick``, which name the noise.
3. server: ``{actions (n, Da), server_timing, policy_timing, rounds, bound, certified}``, the first
   action for the newest observation; or, as text, ``CODE: what is wrong``.

``serve.observe.history`` says what a policy of several observations is shown beside the newest one.
An episode's first observation stands for those before it.
"""

from collections.abc import Mapping
from itertools import count
from typing import Any

from pcm_policy.control.wire import LARGEST, WireError, natural
from pcm_policy.serving.loop import Loop, Turn
from pcm_policy.serving.observation import Reader
from pcm_policy.serving.openpi_wire import pack, plain, read_array, read_image, unpack
from pcm_policy.serving.protocol import Conversation, Service, WireProtocol

RESET, SEED, TICK = "pcm/reset", "pcm/seed", "pcm/tick"


class OpenpiProtocol(WireProtocol):
    """Chunks for openpi's clients."""

    scheme = "Api-Key"
    hears_first = False
    kinds = ("plain",)
    idle_s = 3600.0
    wait_s = 60.0

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        options = service.options.observe
        self._reader = Reader(service.planner.spec, options, read_array, read_image)
        self._seeds = count(options.seed)

    def greeting(self, data: Any) -> bytes:
        """Return what openpi calls the metadata."""
        service, spec, keys = self.service, self.service.planner.spec, self._reader.keys
        return pack(
            {
                "type": "metadata",
                "protocol": "openpi",
                "policy": service.name,
                "solver": service.planner.solver.label,
                "latency_ms": service.cost_ms[1],
                "images": {key: [*spec.cameras[name], 3] for name, key in keys.items()},
                "state": list(self._reader.fields),
                "state_dim": spec.obs_dim,
                "prompt": "ignored",
                "obs_steps": spec.obs_steps,
                "history": service.options.observe.history or "steps",
                "actions": [spec.usable, spec.action_dim],
                "action_steps": spec.action_steps,
                "replan_steps": service.options.observe.replan_steps,
                "control_hz": spec.control_hz,
                "max_bytes": service.max_bytes,
            }
        )

    def begin(self, socket: Any) -> Conversation:
        """Return a connection that has seen nothing yet."""
        every = self.service.options.observe.replan_steps or 1
        loop = Loop(self.service, socket, every, next(self._seeds) % LARGEST)
        return OpenpiConversation(self._reader, loop)


class OpenpiConversation(Conversation):
    """One client's connection.

    Args:
        reader: reads observations.
        loop: answers them.
    """

    def __init__(self, reader: Reader, loop: Loop) -> None:
        self._read, self._loop = reader, loop

    async def answer(self, data: Any, came: float) -> bytes:
        """Return the chunk for an observation, or what is left of the last one."""
        entries = unpack(data)
        seen = self._read(entries)
        reset, seed, tick = (plain(entries, key) for key in (RESET, SEED, TICK))
        if type(reset) is not bool and reset is not None:
            raise WireError("field", f"{RESET} is true or false")
        seed = None if seed is None else natural({SEED: seed}, SEED)
        tick = None if tick is None else natural({TICK: tick}, TICK)
        if reset:
            self._loop.begin()
        if seed is not None:
            self._loop.seed = seed
        return pack(_reply(await self._loop.act(seen, came, tick)))

    def refusal(self, error: WireError) -> str:
        """Return the text that openpi's client raises."""
        return f"{error.code}: {str(error)[:500]}"


def _reply(turn: Turn) -> Mapping[str, Any]:
    return {
        "actions": turn.actions,
        "server_timing": dict(turn.timing),
        "policy_timing": {"infer_ms": turn.timing["infer_ms"]},
        "rounds": turn.plan.rounds,
        "bound": turn.plan.bound,
        "certified": turn.plan.certified,
    }
