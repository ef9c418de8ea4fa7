"""Write a demonstration store, whole or not at all."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.store import count_rows, nonfinite_rows

_CHUNK_BYTES = 2 << 20
_PENDING_BYTES = 64 << 20


class _Writer:
    """Append episodes to a new folder store, holding rows back to write many at once."""

    def __init__(
        self, path: Path, folder: Path, attrs: Mapping[str, Any], zarr_format: Literal[2, 3]
    ) -> None:
        self.path = path
        self.root = zarr.open_group(
            folder, mode="w", zarr_format=zarr_format, attributes=dict(attrs)
        )
        self.data = self.root.create_group("data")
        self.codec = (
            Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE)
            if zarr_format == 2
            else BloscCodec(cname="zstd", clevel=5)
        )
        self.arrays: dict[str, zarr.Array[Any]] = {}
        self.pending: list[dict[str, NDArray[Any]]] = []
        self.pending_bytes = 0
        self.ends: list[int] = []

    def add(self, episode: Mapping[str, NDArray[Any]]) -> None:
        """Take a copy of one episode; ReplayError when it does not fit those before it."""
        copy = {key: np.array(values) for key, values in episode.items()}
        self._check(copy)
        steps = len(next(iter(copy.values())))
        self.ends.append(steps + (self.ends[-1] if self.ends else 0))
        self.pending.append(copy)
        self.pending_bytes += sum(values.nbytes for values in copy.values())
        if self.pending_bytes > _PENDING_BYTES:
            self.flush()

    def _check(self, episode: Mapping[str, NDArray[Any]]) -> None:
        model = self.pending[0] if self.pending else self.arrays
        n_rows = count_rows(episode)
        if len(set(n_rows.values())) != 1 or 0 in n_rows.values():
            raise self._fault(f"has rows {n_rows}, expected the same number, at least 1")
        if model and set(model) != set(episode):
            raise self._fault(f"has arrays {sorted(episode)}, the first has {sorted(model)}")
        for key, values in episode.items():
            step, first = (f"{x.shape[1:]} {x.dtype}" for x in (values, model.get(key, values)))
            if step != first:
                raise self._fault(f"{key} has steps of {step}, the first episode of {first}")
            if values.dtype.kind not in "biuf" or not values.size or not _is_key(key):
                fix = "expected numbers, no empty axis, and no slash in the key"
                raise self._fault(f"{key!r} has steps of {step}", fix, key)
            if (rows := nonfinite_rows(values)).size:
                found = f"{key} holds NaN or inf at step {rows[0]}"
                raise self._fault(found, "drop or repair it", key)

    def _fault(
        self,
        found: str,
        fix: str = "give every episode the same arrays, one row a step",
        key: str | None = None,
    ) -> ReplayError:
        return ReplayError(self.path, f"episode {len(self.ends)}", found, fix, key)

    def flush(self) -> None:
        """Write what is held back."""
        for key in self.pending[0] if self.pending else ():
            rows = np.concatenate([episode[key] for episode in self.pending])
            if key not in self.arrays:
                per_chunk = max(1, _CHUNK_BYTES // rows[0].nbytes)
                self.arrays[key] = self.data.create_array(
                    key,
                    shape=(0, *rows.shape[1:]),
                    chunks=(per_chunk, *rows.shape[1:]),
                    dtype=rows.dtype,
                    compressors=self.codec,
                    config={"write_empty_chunks": True},
                )
            self.arrays[key].append(rows)
        self.pending, self.pending_bytes = [], 0

    def finish(self) -> None:
        """Write the rest and the episode ends."""
        self.flush()
        ends = np.asarray(self.ends, dtype=np.int64)
        self.root.create_group("meta").create_array(
            "episode_ends", data=ends, compressors=self.codec
        )


def _is_key(key: str) -> bool:
    """Say whether a name is one of a folder inside ``data/``."""
    return key.strip(".") != "" and not {"/", "\\"} & set(key) and key.isprintable()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        fix = "free some space or choose another folder"
        raise ReplayError(path, "store", f"cannot be written ({error.strerror})", fix) from error


def write_replay(
    path: str | Path,
    episodes: Iterable[Mapping[str, NDArray[Any]]],
    *,
    attrs: Mapping[str, Any] | None = None,
    zarr_format: Literal[2, 3] = 2,
) -> None:
    """Write episodes, taken one at a time, as a store that appears at ``path`` whole or not at all.

    Args:
        path: a new folder, or a file if it ends in ``.zip``; missing parents are made.
        episodes: for each, arrays of its steps by key: (steps, ...), finite numbers.
        attrs: attributes of the root group, as JSON holds them.
        zarr_format: 2 is read by every zarr, 3 by zarr 3 alone.

    Raises:
        ReplayError: ``path`` exists or cannot be written, there are no episodes, or one is empty,
            holds NaN or inf, or has other arrays than the first.
    """
    path = Path(path)
    with _writing(path):
        if path.exists():
            raise ReplayError(path, "store", "exists already", "remove it or choose another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.")
    # zarr writes from threads of its own, and Ctrl-C in the main one would leave them writing into
    # the folder that is being removed: the worker is not interrupted, and leaving it waits for it.
    with scratch as folder, ThreadPoolExecutor(1) as worker:
        store = Path(folder, "store")
        with _writing(path):
            writer = _Writer(path, store, attrs or {}, zarr_format)
        for episode in episodes:  # outside _writing: an OSError of the source is not ours
            with _writing(path):
                worker.submit(writer.add, episode).result()
        if not writer.ends:
            raise ReplayError(path, "store", "no episodes to write", "give at least one")
        with _writing(path):
            worker.submit(writer.finish).result()
            (_zip(store) if path.suffix == ".zip" else store).rename(path)


def _zip(folder: Path) -> Path:
    """Pack a folder store, already compressed, into a zip file beside it."""
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())
    return packed
