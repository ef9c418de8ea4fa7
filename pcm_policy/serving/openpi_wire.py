"""Messages of openpi's protocol: msgpack maps in which NumPy's arrays are maps of bytes.

An array is ``{b"__ndarray__": True, b"dtype": "<f4", b"shape": [...], b"data": bytes}``, a NumPy
number ``{b"__npgeneric__": True, b"dtype": ..., b"data": number}``, as ``openpi_client`` 0.1.2
sends them.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pcm_policy.serving.entries import (
    array_of,
    checked_type,
    flat,
    pack_map,
    plain_array,
    read_map,
)

ARRAY, NUMBER = b"__ndarray__", b"__npgeneric__"


def pack(message: Mapping[str, Any]) -> bytes:
    """Return a message of arrays, numbers, texts, lists and maps as bytes."""
    return pack_map(message, ARRAY)


def unpack(data: Any) -> dict[str, Any]:
    """Return the entries of an observation by their paths.

    Raises:
        WireError: it is no msgpack map, or its entries are not those of an observation.
    """
    return flat(read_map(data), _is_leaf)


def read_array(value: Any, name: str) -> NDArray[Any]:
    """Return an entry as an array.

    Args:
        value: an array, a NumPy number, a plain number or a list of them, as it came.
        name: for messages.

    Raises:
        WireError: it is something else.
    """
    if not isinstance(value, dict):
        return plain_array(name, value)
    if NUMBER in value:
        checked_type(name, value.get(b"dtype"))
        return plain_array(name, value.get(b"data"))
    return array_of(name, value.get(b"dtype"), value.get(b"shape"), value.get(b"data"))


def read_image(value: Any, name: str, size: tuple[int, int]) -> NDArray[Any]:
    """Return an entry as images of whatever size: they come as arrays."""
    return read_array(value, name)


def plain(entries: Mapping[str, Any], name: str) -> Any:
    """Return an entry that is a plain value or a NumPy number; None if there is none."""
    value = entries.get(name)
    return value.get(b"data") if isinstance(value, dict) and NUMBER in value else value


def _is_leaf(value: Mapping[Any, Any]) -> bool:
    return ARRAY in value or NUMBER in value
