"""Messages between a robot and a policy server: msgpack maps with plain arrays in them.

Needs numpy and msgpack alone. Version 2; after a WebSocket is open:

1. client ``{type: hello, version: 2}``;
   server ``{type: welcome, version: 2, policy, spec, solver, latency_ms, kinds, images, limits}``.
2. client ``{type: plan, id, seed, tick, obs (To, Do), prefix (n, Da), past, executed, after,
   warm_start, couple_noise, prefix_input, patience_s, frames, new}``, where ``after`` is the id of
   the plan that was accepted last, or nil, and ``patience_s`` how long the client waits for the
   answer; with cameras ``frames`` are the numbers of the ``To`` observed frames, and ``new`` those
   of them that the server does not have, ``{number, images}`` each;
   server ``{type: chunk, id, actions (T - To + 1, Da), rounds, bound, certified, late_frames,
   timing}`` with the timing in milliseconds (``queue_ms``, ``solve_ms``, ``encode_ms`` of it,
   ``total_ms``) and the ``batch`` it was in.
3. with cameras, client ``{type: frame, number, images}`` when a frame comes and no plan is asked
   for, so that it is encoded before one is; server ``{type: seen, number, dropped}``, ``dropped``
   older ones given up for it. The server keeps the newest ``2 To`` frames of a connection.
4. Anything that is wrong: ``{type: error, id, code, message}``.

An array is ``{dtype: "<f4" | "<f8", shape: [...], data: bytes}``; images are described in
:mod:`pcm_policy.control.images`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import number
from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.control.settings import WARM_STARTS, PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

VERSION = 2
MAX_BYTES = 1 << 20
KEPT_FRAMES = 2  # times ``To``: the newest frames of a connection that its server keeps
DTYPES = ("<f4", "<f8")
LARGEST = 2**31 - 1


class WireError(PcmError):
    """A message that cannot be used.

    Attributes:
        code: ``garbage``, ``type``, ``field``, ``shape``, ``value``, ``version`` or ``frame`` (one
            that the server does not have); from a server ``busy``, ``closing``, ``kind`` or
            ``solve`` as well.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def encode(message: Mapping[str, Any]) -> bytes:
    """Pack a message; arrays in it are encoded."""
    packed: bytes = _msgpack().packb(
        {k: encode_array(v) if isinstance(v, np.ndarray) else v for k, v in message.items()}
    )
    return packed


def decode(data: Any) -> dict[str, Any]:
    """Unpack a message.

    Raises:
        WireError: not a msgpack map with a ``type``.
    """
    if not isinstance(data, bytes):
        raise WireError("garbage", "messages are binary msgpack, not text")
    try:
        message = _msgpack().unpackb(data, strict_map_key=True, max_map_len=64, max_array_len=4096)
    except Exception as error:  # msgpack raises half a dozen kinds
        raise WireError("garbage", f"not a msgpack message ({type(error).__name__})") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise WireError("garbage", "a message is a map with a 'type'")
    return message


def encode_array(array: ArrayLike) -> dict[str, Any]:
    """Return an array as a map."""
    values = np.ascontiguousarray(array, "<f8" if np.asarray(array).dtype == np.float64 else "<f4")
    return {"dtype": values.dtype.str, "shape": list(values.shape), "data": values.tobytes()}


def decode_array(value: Any, name: str, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
    """Return the array in a map.

    Args:
        value: what came over the wire.
        name: for messages.
        shape: what it must have; None for any size.

    Raises:
        WireError: not such an array, or a number in it is not finite.
    """
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data"}:
        raise WireError("field", f"{name} is a map of dtype, shape and data")
    kind, size, data = value["dtype"], value["shape"], value["data"]
    if kind not in DTYPES:
        raise WireError("field", f"{name}.dtype is one of {DTYPES}")
    if not isinstance(size, list) or not all(type(n) is int and n >= 0 for n in size):
        raise WireError("shape", f"{name}.shape is a list of sizes")
    wanted = ", ".join("n" if n is None else str(n) for n in shape)
    fits = len(size) == len(shape)
    if not fits or any(w is not None and n != w for n, w in zip(size, shape, strict=True)):
        raise WireError("shape", f"{name} has shape {size[:8]}, expected ({wanted})")
    count = int(np.prod([int(n) for n in size], dtype=object))
    if not isinstance(data, bytes) or len(data) != count * np.dtype(kind).itemsize:
        raise WireError("shape", f"{name}.data does not have the bytes of its shape")
    with np.errstate(over="ignore"):
        array = np.frombuffer(data, kind).reshape(size).astype(np.float32)
    if not np.isfinite(array).all():
        raise WireError("value", f"{name} is not finite")
    return array


def natural(message: Mapping[str, Any], key: str, largest: int = LARGEST) -> int:
    """Return a whole number 0...``largest``.

    Raises:
        WireError: it is something else.
    """
    value = message.get(key)
    if type(value) is not int or not 0 <= value <= largest:
        raise WireError("field", f"{key} is a whole number from 0 to {largest}")
    return value


def plan_message(
    request: PlanRequest, after: int | None, patience_s: float | None = None
) -> dict[str, Any]:
    """Return the message of a request; its memory stays with the server."""
    return {
        "type": "plan",
        "patience_s": patience_s,
        "id": request.id,
        "seed": request.seed,
        "tick": request.tick,
        "obs": request.obs,
        "prefix": request.prefix,
        "past": request.past,
        "executed": request.executed,
        "after": after,
        "warm_start": request.warm_start,
        "couple_noise": request.couple_noise,
        "prefix_input": request.prefix_input,
        "frames": [frame.number for frame in request.frames],
    }


def read_plan(message: Mapping[str, Any], spec: PolicySpec) -> tuple[PlanRequest, int | None]:
    """Return the request in a message, and the id that it comes after; without memory and frames.

    Raises:
        WireError: a field is missing, of the wrong kind, shape or range.
    """
    flags = {key: message.get(key, False) for key in ("couple_noise", "prefix_input")}
    if not all(type(flag) is bool for flag in flags.values()):
        raise WireError("field", "couple_noise and prefix_input are true or false")
    warm = message.get("warm_start", "off")
    if warm not in WARM_STARTS:
        raise WireError("field", f"warm_start is one of {WARM_STARTS}")
    after = None if message.get("after") is None else natural(message, "after")
    prefix = np.zeros((0, spec.action_dim), np.float32)
    if message.get("prefix") is not None:
        prefix = decode_array(message["prefix"], "prefix", (None, spec.action_dim))
    past = natural({"past": 0, **message}, "past", spec.obs_steps - 1)
    if not past <= len(prefix) <= past + spec.usable:
        raise WireError("shape", f"prefix has {len(prefix)} actions, past says {past}")
    request = PlanRequest(
        id=natural(message, "id"),
        seed=natural({"seed": 0, **message}, "seed"),
        tick=natural({"tick": 0, **message}, "tick"),
        clock=0.0,
        obs=decode_array(message.get("obs"), "obs", (spec.obs_steps, spec.obs_dim)),
        prefix=prefix,
        past=past,
        executed=natural({"executed": 0, **message}, "executed"),
        warm_start=warm,
        **flags,
    )
    return request, after


def read_frames(message: Mapping[str, Any], spec: PolicySpec) -> list[int]:
    """Return the numbers of the frames of a request, ``To`` with cameras and none without.

    Raises:
        WireError: they are something else.
    """
    numbers, count = message.get("frames", []), spec.obs_steps if spec.cameras else 0
    if not isinstance(numbers, list) or len(numbers) != count:
        raise WireError("field", f"frames are the numbers of {count} frames")
    return [natural({"frames": n}, "frames") for n in numbers]


def read_patience(message: Mapping[str, Any]) -> float:
    """Return how many seconds the client of a request waits; infinity where it does not say.

    Raises:
        WireError: it is no positive time.
    """
    value = message.get("patience_s")
    if value is None:
        return math.inf
    try:
        return number("patience_s", value, above=0)
    except PcmError as error:
        raise WireError("field", str(error)) from error


def chunk_message(plan: Plan, timing: Mapping[str, float]) -> dict[str, Any]:
    """Return the message of a plan."""
    return {
        "type": "chunk",
        "id": plan.id,
        "actions": plan.actions,
        "rounds": plan.rounds,
        "bound": plan.bound,
        "certified": plan.certified,
        "late_frames": plan.late_frames,
        "timing": dict(timing),
    }


def read_chunk(message: Mapping[str, Any], spec: PolicySpec) -> Plan:
    """Return the plan in a message.

    Raises:
        WireError: a field is missing, or of the wrong kind or shape.
    """
    actions = decode_array(message.get("actions"), "actions", (spec.usable, spec.action_dim))
    bound = message.get("bound")
    return Plan(
        id=natural(message, "id"),
        actions=actions,
        memory=natural(message, "id"),
        rounds=natural(message, "rounds"),
        bound=float(bound) if isinstance(bound, int | float) and bound >= 0 else math.inf,
        certified=message.get("certified") is True,
        late_frames=natural({"late_frames": 0, **message}, "late_frames", spec.obs_steps),
    )


def _msgpack() -> Any:
    return require("msgpack", "a policy server or its client", "serve")
