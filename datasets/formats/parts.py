"""The format of data sets in parts: a folder of sources with a manifest, read one after another."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format
from pcm_policy.datasets.formats.loading import FrameSource
from pcm_policy.datasets.formats.manifest import is_manifest, read_manifest, refuse_missing
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, step_type

_FIX = "convert the parts alike, or leave it out"


class Parts(Format):
    """Data sets in parts."""

    name = "parts"

    def recognises(self, path: Path) -> bool:
        """Say whether a folder has a manifest."""
        return is_manifest(path)

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe all parts as one; an array that is not in all of them alike is at fault."""
        return _joined(path, [known.read(part, images) for known, part in _parts(path)])

    def whole(self, path: Path) -> Recording:
        """Describe all parts with their cameras."""
        return _joined(path, [known.whole(part) for known, part in _parts(path)])

    def observed(self, recording: Recording) -> list[str]:
        """Return what the first part's format takes for an observation."""
        known, part = _parts(recording.path)[0]
        return known.observed(known.whole(part))

    def load(
        self, path: Path, keys: Sequence[str] | None = None, filter_key: str | None = None
    ) -> ReplayBuffer:
        """Read arrays of all parts, each as its format does."""
        parts = [known.load(part, keys, filter_key) for known, part in _parts(path)]
        steps = [{name: step_type(rows) for name, rows in p.arrays.items()} for p in parts]
        for part, own in zip(parts, steps, strict=True):
            for fault in _differences(part.path, own, steps[0]):
                raise fault
        arrays = {name: np.concatenate([p.arrays[name] for p in parts]) for name in steps[0]}
        starts = np.cumsum([0, *(part.n_steps for part in parts[:-1])])
        ends = [part.episode_ends + start for part, start in zip(parts, starts, strict=True)]
        meta = _meta(path, [part.attrs.get(META) for part in parts])
        return ReplayBuffer(arrays, np.concatenate(ends).astype(np.int64), path, {META: meta})

    def camera(self, path: Path, key: str, filter_key: str | None = None) -> FrameSource:
        """Describe a camera of all parts; frames are mapped where every part can be."""
        sources = [known.camera(part, key, filter_key) for known, part in _parts(path)]

        def blocks() -> Iterator[tuple[str, NDArray[Any]]]:
            for source in sources:
                yield from source.blocks()

        for source in sources:
            if source.step != sources[0].step:
                found = f"holds {source.step}, the first part {sources[0].step}"
                raise ReplayError(path, source.where, found, _FIX, key)
        mapped = [one for source in sources for one in source.mapped]
        if not all(source.mapped for source in sources):
            mapped = []
        count = sum(source.count for source in sources)
        return FrameSource(key, sources[0].step, count, blocks, mapped)

    def describe(self, path: Path) -> list[str]:
        """Return a line for each part."""
        return [f"part {part.describe()}" for part in read_manifest(path)]


def _parts(path: Path) -> list[tuple[Format, Path]]:
    """Return format and place of every part; ReplayError where a file is missing or cut short."""
    found = []
    for part in read_manifest(path):
        refuse_missing(path, part)
        found.append((source_format(path / part.name), path / part.name))
    return found


def _joined(path: Path, parts: list[Recording]) -> Recording:
    faults = {name: fault for part in parts for name, fault in part.faults.items()}
    for part in parts:
        different = _differences(part.path, part.fields, parts[0].fields)
        faults |= {str(fault.array): fault for fault in different}
    fields = {name: step for name, step in parts[0].fields.items() if name not in faults}

    def episodes(names: Collection[str]) -> Iterator[Episode]:
        for part in parts:
            yield from part.read(names)

    return Recording(
        path,
        fields,
        sum(part.n_episodes for part in parts),
        episodes,
        _meta(path, [part.meta for part in parts]),
        {name: why for part in parts for name, why in part.lost.items()},
        faults,
    )


def _differences(
    path: Path, own: Mapping[str, np.dtype[Any]], first: Mapping[str, np.dtype[Any]]
) -> Iterator[ReplayError]:
    """Yield a fault for each array that a part does not hold as the first part does."""
    for name in {**first, **own}:
        if own.get(name) != first.get(name):
            held = "is missing" if name not in own else f"holds {own[name]} a step"
            there = "has none" if name not in first else f"holds {first[name]}"
            yield ReplayError(path, name, f"{held}, the first part {there}", _FIX, name)


def _meta(path: Path, texts: Sequence[object]) -> Mapping[str, Any]:
    """Return what the parts say besides, if all say the same; else their rate alone."""
    metas = [parse_meta(path, text) for text in texts]
    rates = list(dict.fromkeys(meta["fps"] for meta in metas if meta.get("fps") is not None))
    if len(rates) > 1:
        found = f"parts of different rates: {', '.join(f'{rate:g}' for rate in rates)}"
        raise ReplayError(path, "fps", found, "keep parts of one rate in a folder")
    if all(meta == metas[0] for meta in metas):
        return metas[0]
    return {"fps": rates[0]} if rates else {}


FORMAT = Parts()
