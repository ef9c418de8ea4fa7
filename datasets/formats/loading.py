"""What training takes of a recording: numbers in memory, frames of a camera one block at a time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.errors import ReplayError, place
from pcm_policy.datasets.formats.store import nonfinite_rows
from pcm_policy.datasets.recording import META, Recording
from pcm_policy.datasets.trust import check_memory

Blocks = Callable[[], Iterator[tuple[str, NDArray[Any]]]]


@dataclass(frozen=True)
class FrameSource:
    """One camera of a source, as its format stores it.

    Attributes:
        where: what to call it in messages.
        step: type and shape of a frame.
        count: number of frames.
        blocks: reads all frames in order, ``(n, H, W, 3)`` at a time, each block with its place.
        mapped: the same frames as maps of the source itself, where it stores plain bytes.
    """

    where: str
    step: np.dtype[Any]
    count: int
    blocks: Blocks
    mapped: Sequence[NDArray[np.uint8]] = ()


def load(recording: Recording, keys: Sequence[str] | None = None) -> ReplayBuffer:
    """Read arrays of a recording into memory, end to end; the others are not touched.

    Args:
        recording: of any format.
        keys: names of its fields; None for all.

    Raises:
        ReplayError: a key is missing or damaged, an array does not fit into memory, episodes
            differ, or a float array holds NaN or inf.
    """
    names = list(recording.fields if keys is None else dict.fromkeys(keys))
    for name in names:
        check_there(recording, name)
    if not names:
        raise ReplayError(recording.path, "data", "holds no array of numbers", "name another")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
    ends: list[int] = []
    size = 0
    for episode in recording.read(names):
        size += sum(values.nbytes for values in episode.values())
        check_memory(recording.path, "data", size)
        for name, values in episode.items():
            parts[name].append(values)
        ends.append(len(next(iter(episode.values()))) + (ends[-1] if ends else 0))
    arrays = {name: np.concatenate(parts.pop(name)) for name in names}
    for name, values in arrays.items():
        if (rows := nonfinite_rows(values)).size:
            first = place(rows[0], np.array(ends))
            found = f"NaN or inf in {len(rows)} rows, first at {first}"
            fix = "repair or drop the episodes it is in"
            raise ReplayError(recording.path, name, found, fix, name)
    attrs: Mapping[str, Any] = {META: dict(recording.meta)}
    return ReplayBuffer(arrays, np.array(ends, np.int64), recording.path, attrs)


def frame_source(recording: Recording, key: str) -> FrameSource:
    """Describe a camera of a recording whose frames are read an episode at a time.

    Raises:
        ReplayError: there is no such array, or it is damaged.
    """
    check_there(recording, key)
    narrowest = min(recording.fields, key=lambda name: recording.fields[name].itemsize)
    count = sum(len(episode[narrowest]) for episode in recording.read([narrowest]))

    def blocks() -> Iterator[tuple[str, NDArray[Any]]]:
        for number, episode in enumerate(recording.read([key])):
            yield f"episode {number}: {key}", episode[key]

    return FrameSource(key, recording.fields[key], count, blocks)


def check_there(recording: Recording, name: str) -> None:
    """Raise ReplayError for an array that is damaged or not there."""
    if name in recording.faults:
        raise recording.faults[name]
    if name not in recording.fields:
        why = recording.lost.get(name)
        held = "missing" if why is None else f"no array of numbers with a row a step {why}"
        found = f"{held}; the data hold {', '.join(recording.fields)}"
        raise ReplayError(Path(recording.path), name, found, "name one of these", name)
