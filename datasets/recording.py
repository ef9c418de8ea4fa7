"""Demonstrations of any format, read one episode at a time, under names that every format can hold.

``meta`` travels with the data through every format: one section for each, holding what only that
format has a place for (names, tasks, the environment's arguments), so that it can be restored.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from pcm_policy.datasets.formats.store import (
    ReplayError,
    count_rows,
    decoding,
    episode_faults,
    find_keys,
    length_faults,
    open_group,
    read_ends,
)
from pcm_policy.errors import PcmError

Episode = dict[str, NDArray[Any]]
META = "pcm_policy"
"""Attribute, or key of a JSON file, under which ``meta`` is kept."""


@dataclass(frozen=True)
class Recording:
    """What a converter reads.

    Attributes:
        path: the store.
        fields: shape and type of one step of every array, by name.
        n_episodes: number of episodes.
        episodes: opens the store and yields its episodes in order, each array ``(steps, ...)``.
        meta: JSON; sections ``zarr``, ``robomimic``, ``lerobot``, ``minari``, and ``fps`` where it
            is known.
        lost: one line for each thing in the store that is in neither ``fields`` nor ``meta``.
        attributes: texts and numbers about an episode, by its place in the order; robomimic's files
            alone have a place for them.
        bound: one line for each of these.
    """

    path: Path
    fields: Mapping[str, np.dtype[Any]]
    n_episodes: int
    episodes: Callable[[], Iterator[Episode]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    attributes: Callable[[int], Mapping[str, Any]] | None = None
    bound: tuple[str, ...] = ()


def step_type(values: Any) -> np.dtype[Any]:
    """Return type and shape of one step of an array ``(steps, ...)`` as one dtype."""
    return np.dtype((values.dtype, tuple(values.shape[1:])))


def require(module: str, what: str, extra: str = "convert") -> Any:
    """Import an optional package, which the extra ``extra`` of this package installs.

    Raises:
        PcmError: it is not installed; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PcmError(
            f"{what} needs {module.partition('.')[0]}: pip install 'pcm_policy[{extra}]'"
        ) from error


def parse_meta(path: Path, text: object) -> dict[str, Any]:
    """Read ``meta`` back from JSON text, or from nothing.

    Raises:
        ReplayError: it is something else.
    """
    try:
        found = {} if text is None else json.loads(text) if isinstance(text, str) else text
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ReplayError(path, META, "is no JSON object", "remove that attribute")
    return found


def read_zarr(path: Path) -> Recording:
    """Describe a replay buffer, zarr format 2 or 3; ReplayError when it is inconsistent."""
    with open_group(path) as group:
        handles = find_keys(path, group)
        ends = read_ends(path, group)
        rows = count_rows(handles)
        for fault in length_faults(path, rows) + episode_faults(path, ends, max(rows.values())):
            raise fault
        fields = {key: step_type(handle) for key, handle in handles.items()}
        attrs = dict(group.attrs)
        meta_group = group.get("meta")
        others = sorted(meta_group.keys()) if isinstance(meta_group, zarr.Group) else []
    meta = parse_meta(path, attrs.pop(META, None))
    section = {"attrs": attrs} if attrs else {}
    meta = meta | ({"zarr": section} if section else {})
    lost = tuple(f"meta/{name}" for name in others if name != "episode_ends")

    def episodes() -> Iterator[Episode]:
        with open_group(path) as opened:
            arrays = find_keys(path, opened)
            start = 0
            for end in map(int, ends):
                with decoding(path, "data"):
                    yield {key: np.asarray(array[start:end]) for key, array in arrays.items()}
                start = end

    return Recording(path, fields, len(ends), episodes, meta, lost)
