"""Messages of vla-eval's protocol, version 1: ``{type, payload, seq, timestamp}`` in msgpack.

An array is ``{"__ndarray__": True, dtype, shape, data}``; an image is
``{"__image__": True, format: png | jpeg | raw, data, ...}``, as vla-eval 0.8.0 sends them: as PNG,
which is exact, unless it was told otherwise.
"""

import time
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from pcm_policy.control.images import read_picture
from pcm_policy.control.wire import LARGEST, WireError, natural
from pcm_policy.serving.entries import array_of, flat, pack_map, plain_array, read_map
from pcm_policy.serving.observation import ReadImage

PROTOCOL_VERSION = 1
ARRAY, IMAGE = "__ndarray__", "__image__"


def pack(kind: str, payload: Mapping[str, Any], seq: int) -> bytes:
    """Return a message.

    Args:
        kind: its type.
        payload: arrays, numbers, texts, lists and maps.
        seq: number of the message that it answers.
    """
    message = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    return pack_map(message, ARRAY)


def unpack(data: Any) -> tuple[str, dict[Any, Any], int]:
    """Return type, payload and number of a message.

    Raises:
        WireError: it is something else.
    """
    message = read_map(data)
    kind, payload = message.get("type"), message.get("payload")
    if not isinstance(kind, str) or not isinstance(payload, dict):
        raise WireError("garbage", "a message is a map of type, payload and seq")
    return kind, payload, natural(message, "seq", LARGEST)


def entries_of(payload: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the entries of an observation by their paths.

    Raises:
        WireError: they are not those of an observation.
    """
    return flat(payload, _is_leaf)


def read_array(value: Any, name: str) -> NDArray[Any]:
    """Return an entry as an array.

    Args:
        value: an array, a number or a list of them, as it came.
        name: for messages.

    Raises:
        WireError: it is something else.
    """
    if not isinstance(value, dict):
        return plain_array(name, value)
    return array_of(name, value.get("dtype"), value.get("shape"), value.get("data"))


def reads_images(jpeg: bool) -> ReadImage:
    """Return what reads images.

    Args:
        jpeg: take JPEG as well, which is not exact.
    """

    def read_image(value: Any, name: str, size: tuple[int, int]) -> NDArray[Any]:
        form = value.get("format") if isinstance(value, dict) and IMAGE in value else "raw"
        if form == "raw":
            return read_array(value, name)
        if form == "jpeg" and not jpeg:
            raise WireError(
                "field", f"{name} is JPEG, which is not exact: send PNG, or give serve.jpeg=true"
            )
        data = value.get("data")
        if form not in ("png", "jpeg") or not isinstance(data, bytes):
            raise WireError("field", f"{name} is no image as PNG, JPEG or bytes")
        return read_picture(name, data, size, form.upper())

    return read_image


def _is_leaf(value: Mapping[Any, Any]) -> bool:
    return ARRAY in value or IMAGE in value
