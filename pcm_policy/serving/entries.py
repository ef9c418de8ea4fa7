"""Entries of an observation of another project's protocol: names, arrays, and what is none."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.wire import WireError
from pcm_policy.optional import require

DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248])")
MOST_AXES = 4  # To, height, width, channels
MOST_DEPTH = 4  # maps in maps
MOST_ENTRIES, MOST_ITEMS = 64, 4096  # of a map, of a list
SEPARATOR = "/"


def pack_map(message: Mapping[str, Any], marker: str | bytes) -> bytes:
    """Pack a message of arrays, numbers, texts, lists and maps.

    Args:
        message: the map.
        marker: the entry that says of a map that it is an array; such a map's other names are of
            the same type.
    """

    def packed(value: Any) -> dict[str | bytes, Any]:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} is nothing that a message holds")
        whole = np.ascontiguousarray(value)
        parts = {"data": whole.tobytes(), "dtype": whole.dtype.str, "shape": list(value.shape)}
        as_bytes = isinstance(marker, bytes)
        return {marker: True} | {k.encode() if as_bytes else k: v for k, v in parts.items()}

    found: bytes = msgpack().packb(message, default=packed)
    return found


def read_map(data: Any) -> dict[Any, Any]:
    """Unpack a message.

    Raises:
        WireError: it is no msgpack map.
    """
    if not isinstance(data, bytes):
        raise WireError("garbage", "messages are binary msgpack, not text")
    try:
        message = msgpack().unpackb(
            data, strict_map_key=True, max_map_len=MOST_ENTRIES, max_array_len=MOST_ITEMS
        )
    except Exception as error:  # msgpack raises half a dozen kinds
        raise WireError("garbage", f"not a msgpack message ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise WireError("garbage", "a message is a map of its entries")
    return message


def flat(
    message: Mapping[Any, Any], is_leaf: Callable[[Mapping[Any, Any]], bool]
) -> dict[str, Any]:
    """Return the entries of an observation; those of maps in it by their path, as ``images/top``.

    Args:
        message: the observation.
        is_leaf: whether a map stands for an array.

    Raises:
        WireError: an entry has no name or that of another, or its maps are too deep.
    """
    if is_leaf(message):
        raise WireError("garbage", "an observation is a map of its entries")
    found: dict[str, Any] = {}
    for name, value in _entries(message, is_leaf, "", 0):
        if name in found:
            raise WireError("field", f"the observation has two entries {name}")
        found[name] = value
    return found


def array_of(name: str, kind: Any, shape: Any, data: Any) -> NDArray[Any]:
    """Return an array of numbers; nothing is made before type, shape and bytes are checked.

    Args:
        name: for messages.
        kind: its type as NumPy writes it, as ``<f4``; none that holds objects is taken.
        shape: its sizes.
        data: its bytes.

    Raises:
        WireError: it is something else.
    """
    itemsize = checked_type(name, kind).itemsize
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise WireError("shape", f"{name} has no shape")
    if len(shape) > MOST_AXES:
        raise WireError("shape", f"{name} has {len(shape)} axes, at most {MOST_AXES} are taken")
    if not isinstance(data, bytes) or len(data) != math.prod(shape) * itemsize:
        raise WireError("shape", f"{name} does not have the bytes of its shape {str(shape)[:60]}")
    return np.frombuffer(data, kind).reshape(shape)


def checked_type(name: str, kind: Any) -> np.dtype[Any]:
    """Return the type of an array.

    Raises:
        WireError: it is none of numbers.
    """
    if not isinstance(kind, str) or DTYPE.fullmatch(kind) is None:
        raise WireError("field", f"{name} has the type {str(kind)[:40]}: send numbers or uint8")
    return np.dtype(kind)


def plain_array(name: str, value: Any) -> NDArray[np.float64]:
    """Return a number or a list of numbers as an array.

    Raises:
        WireError: it is something else.
    """
    given = value if isinstance(value, list) else [value]
    if not all(isinstance(one, bool | int | float) for one in given):
        raise WireError("field", f"{name} is {type(value).__name__}: send an array of numbers")
    shape = [len(value)] if isinstance(value, list) else []
    return np.array([float(one) for one in given]).reshape(shape)


def msgpack() -> Any:
    """Import msgpack, or say how it is installed."""
    return require("msgpack", "a policy server", "serve")


def _entries(
    message: Mapping[Any, Any],
    is_leaf: Callable[[Mapping[Any, Any]], bool],
    prefix: str,
    depth: int,
) -> Iterator[tuple[str, Any]]:
    if depth >= MOST_DEPTH:
        raise WireError("field", f"the observation has more than {MOST_DEPTH} maps in one another")
    for key, value in message.items():
        if not isinstance(key, str):
            raise WireError("field", "the entries of an observation have names, not bytes")
        if isinstance(value, dict) and not is_leaf(value):
            yield from _entries(value, is_leaf, f"{prefix}{key}{SEPARATOR}", depth + 1)
        else:
            yield f"{prefix}{key}", value
