"""Demonstrations of any format, read one episode at a time, under names that every format can hold.

``meta`` travels with the data through every format: one section for each, holding what only that
format has a place for (names, tasks, the environment's arguments), so that it can be restored.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError

Episode = dict[str, NDArray[Any]]
META = "pcm_policy"
"""Attribute, or key of a JSON file, under which ``meta`` is kept."""


@dataclass(frozen=True)
class Recording:
    """What a reader of a format gives.

    Attributes:
        path: the file or folder.
        fields: shape and type of one step of every array of numbers, by name.
        n_episodes: number of episodes.
        episodes: takes names of ``fields``; opens the source and yields its episodes in order,
            each array ``(steps, ...)``. The other arrays are not read, so that what is wrong with
            them does no harm. :meth:`read` checks what comes.
        meta: JSON; sections ``zarr``, ``robomimic``, ``lerobot``, ``minari``, and ``fps`` where it
            is known.
        lost: what is in neither ``fields`` nor ``meta``, and cannot be (texts, arrays of an
            episode): why, by name.
        faults: arrays that should be in ``fields`` and are damaged: the fault, by name.
        attributes: texts and numbers about an episode, by its place in the order; robomimic's files
            alone have a place for them.
        bound: one line for each of these.
    """

    path: Path
    fields: Mapping[str, np.dtype[Any]]
    n_episodes: int
    episodes: Callable[[Collection[str]], Iterator[Episode]]
    meta: Mapping[str, Any] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, ReplayError] = field(default_factory=dict)
    attributes: Callable[[int], Mapping[str, Any]] | None = None
    bound: tuple[str, ...] = ()

    def read(self, names: Collection[str] | None = None) -> Iterator[Episode]:
        """Yield the episodes, arrays in the order of ``fields``, checked.

        Args:
            names: the arrays to read; None for all of ``fields``.

        Raises:
            ReplayError: an episode has no steps, an array has another number of rows than the
                others, or steps of another shape or type than ``fields`` says.
        """
        wanted = [name for name in self.fields if names is None or name in names]
        count = 0
        for number, episode in enumerate(self.episodes(wanted)):
            lengths = [len(episode[name]) for name in wanted]
            usual = max(set(lengths), key=lengths.count, default=0)
            for name in wanted:
                self._check(number, name, episode[name], usual)
            yield {name: episode[name] for name in wanted}
            count += 1
        if count != self.n_episodes:
            found = f"gives {count} of {self.n_episodes} episodes"
            raise ReplayError(self.path, "episodes", found, "copy or download it again")

    def _check(self, number: int, name: str, values: NDArray[Any], steps: int) -> None:
        where = f"episode {number}: {name}"
        if not steps:
            raise ReplayError(self.path, f"episode {number}", "holds no steps", "remove it")
        if len(values) != steps:
            found = f"has {len(values)} rows where the other arrays have {steps}"
            raise ReplayError(self.path, where, found, "write every array once per step", name)
        if step_type(values) != self.fields[name]:
            found = f"has steps of {step_type(values)}, the first episode of {self.fields[name]}"
            fix = "give every episode the same shapes and types"
            raise ReplayError(self.path, where, found, fix, name)


def step_type(values: Any) -> np.dtype[Any]:
    """Return type and shape of one step of an array ``(steps, ...)`` as one dtype."""
    return np.dtype((values.dtype, tuple(values.shape[1:])))


def parse_meta(path: Path, text: object) -> dict[str, Any]:
    """Read ``meta`` back from JSON text, or from nothing.

    Raises:
        ReplayError: it is something else.
    """
    try:
        found = {} if text is None else json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ReplayError(path, META, "is no JSON object", "remove that attribute")
    return found


def section(meta: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a section of ``meta``, empty where there is none or it is no object."""
    found = meta.get(name)
    return dict(found) if isinstance(found, dict) else {}
