"""Which columns of which arrays make an observation; numpy alone."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import numbers
from pcm_policy.errors import PcmError

STATE = "state"
"""Entry of an observation that holds the numbers beside the images, joined already."""
F = TypeVar("F", bound=Callable[..., object])
_FIELD = re.compile(r"(?P<key>[^\[\]\s]+)(\[(?P<start>\d*):(?P<stop>\d*)\])?")


@dataclass(frozen=True)
class Field:
    """Columns ``start:stop`` (None: to the end) of one array, its axes after time flattened."""

    key: str
    start: int = 0
    stop: int | None = None

    def columns(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Pick the columns of ``values`` (n_steps, ...): (n_steps, stop - start).

        Raises:
            PcmError: the slice is empty or reaches past the last column.
        """
        flat = values.reshape(len(values), -1)
        width = flat.shape[1]
        stop = width if self.stop is None else self.stop
        if not self.start < stop <= width:
            raise PcmError(
                f"field {self.key}[{self.start}:{stop}]: {self.key} has {width} columns; "
                f"use a slice start:stop with start < stop <= {width}"
            )
        return flat[:, self.start : stop]


def parse_field(text: str) -> Field:
    """Read ``"keypoint"`` (all columns) or ``"state[0:2]"``; PcmError on anything else."""
    match = _FIELD.fullmatch(text)
    if match is None:
        raise PcmError(f"field {text!r}: expected a key or key[start:stop], such as state[0:2]")
    start, stop = match["start"], match["stop"]
    return Field(match["key"], int(start) if start else 0, int(stop) if stop else None)


def maps(*obs: str, action: str) -> Callable[[F], F]:
    """Mark a function of (observations, actions) with the fields whose columns it takes.

    Training refuses it for other fields, which may well be as wide.

    Args:
        *obs: fields of the observation, in order.
        action: field of the action.
    """

    def mark(function: F) -> F:
        function.maps_fields = obs, action  # type: ignore[attr-defined]
        return function

    return mark


def join_fields(obs: Mapping[str, ArrayLike], fields: Sequence[str]) -> NDArray[np.float32]:
    """Put the columns of an observation's entries side by side.

    Args:
        obs: entries by name, flat: ``(..., d)``, the leading axes the same in all of them.
        fields: the columns, in order.

    Returns:
        ``(..., Do)`` float32.

    Raises:
        PcmError: no fields, a missing entry, a slice outside it, or leading axes that differ.
    """
    if not fields:
        raise PcmError("the policy does not say which entries it sees: give obs_fields=[...]")
    parts = []
    for text in fields:
        field = parse_field(text)
        if field.key not in obs:
            raise PcmError(f"the observation lacks {field.key}: it has {', '.join(obs)}")
        values = numbers(f"observation {field.key}", obs[field.key])
        rows = field.columns(values.reshape(-1, values.shape[-1] if values.ndim else 1))
        parts.append(rows.reshape(*values.shape[:-1], rows.shape[1]))
    if len({part.shape[:-1] for part in parts}) > 1:
        shapes = {text: part.shape for text, part in zip(fields, parts, strict=True)}
        raise PcmError(f"the observation's entries have different leading axes: {shapes}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, which policies refuse
        return np.concatenate(parts, axis=-1, dtype=np.float32, casting="unsafe")


def read_observation(
    obs: ArrayLike | Mapping[str, ArrayLike],
    width: int,
    cameras: Mapping[str, tuple[int, int]],
    steps: int,
) -> tuple[NDArray[np.float32], dict[str, NDArray[np.uint8]]]:
    """Check an observation with images and give every entry a batch axis.

    Args:
        obs: ``state`` ``(To, width)``, if there are such numbers, and for every camera
            ``(To, H, W, 3)`` uint8; or all of them with a batch axis before.
        width: numbers of the state.
        cameras: height and width of every camera's images.
        steps: ``To``.

    Returns:
        ``(B, To, width)`` float32 and ``(B, To, H, W, 3)`` for every camera.

    Raises:
        PcmError: an entry is missing, superfluous, of another shape or type, or no numbers.
    """
    wanted = [*([STATE] if width else []), *cameras]
    if not isinstance(obs, Mapping) or set(obs) != set(wanted):
        have = sorted(obs) if isinstance(obs, Mapping) else type(obs).__name__
        raise PcmError(f"this policy has cameras: give a dictionary of {wanted}, not {have}")
    images = {name: numbers(f"observation {name}", obs[name]) for name in cameras}
    rank = next(iter(images.values())).ndim
    batch = next(iter(images.values())).shape[:1] if rank == 5 else (1,)
    state = np.zeros((*batch, steps, 0), np.float32)
    if width:
        with np.errstate(over="ignore"):  # what does not fit is infinite, and refused as such
            state = numbers(f"observation {STATE}", obs[STATE]).astype(np.float32)
        state = state[None] if rank == 4 else state
    images = {k: v[None] if v.ndim == 4 and rank == 4 else v for k, v in images.items()}
    shapes: dict[str, tuple[int, ...]] = {STATE: (width,)}
    shapes |= {name: (*size, 3) for name, size in cameras.items()}
    # images first: without one's axes nothing can be said of a batch
    for name, array in {**images, STATE: state}.items():
        want = (*batch, steps, *shapes[name])
        if array.shape != want or 0 in batch:
            raise PcmError(
                f"observation {name} has shape {np.shape(obs[name])}: this policy takes "
                f"{want[1:]}, or a batch of the same size for every entry"
            )
        if name != STATE and array.dtype != np.uint8:
            raise PcmError(
                f"observation {name} is {array.dtype}: give images as uint8, 0 to 255, height, "
                "width and channels last"
            )
    return state, images


def laid_out(layout: Sequence[int | str], state: Any, features: Mapping[str, Any]) -> list[Any]:
    """Return the parts of an observation vector from left to right.

    Args:
        layout: a number stands for so many numbers of the state, a name for that camera's features.
        state: ``(..., n)``, an array or a tensor.
        features: the like, ``(..., F)`` of every camera.
    """
    parts, at = [], 0
    for part in layout:
        if isinstance(part, str):
            parts.append(features[part])
        else:
            parts.append(state[..., at : at + part])
            at += part
    return parts
