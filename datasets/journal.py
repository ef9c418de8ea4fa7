"""Episodes on disk one by one until a file can be written: what a killed run keeps."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.recording import Episode

_MADE = "made.json"
_ATTRIBUTES = "__attributes__"


@dataclass(frozen=True)
class Journal:
    """A hidden folder beside the file to come; processes may add to it side by side.

    Attributes:
        folder: where the episodes are, one file a seed; one that is left out is an empty file.
        failures: whether failed episodes are kept as well.
    """

    folder: Path
    failures: bool = False

    @classmethod
    def open(cls, target: Path, made: Mapping[str, Any], failures: bool = False) -> "Journal":
        """Begin a journal, or go on with the one that is there.

        Args:
            target: the file to come.
            made: all that the episodes depend on but their seeds, as JSON holds it.
            failures: whether failed episodes are kept as well.

        Raises:
            ReplayError: the folder cannot be written, or a journal is there that was made in
                another way.
        """
        folder = target.with_name(f".{target.name}.part")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / _MADE
            wanted = json.loads(json.dumps(made))
            if file.exists():
                found = json.loads(file.read_text())
                for key in sorted({*found, *wanted}):
                    if found.get(key) != wanted.get(key):
                        was = f"was begun with {key}={found.get(key)}, not {wanted.get(key)}"
                        fix = "repeat that command to go on, or remove this folder"
                        raise ReplayError(folder, _MADE, was, fix)
            else:
                _write(file, json.dumps(wanted, indent=2).encode())
        except ReplayError:
            raise
        except (OSError, ValueError) as error:
            fix = "remove this folder, free some space or choose another place"
            raise ReplayError(folder, _MADE, f"cannot be used ({error})", fix) from error
        return cls(folder, failures)

    def _file(self, seed: int) -> Path:
        return self.folder / f"{seed:010d}.npz"

    def outcome(self, seed: int) -> bool | None:
        """Say whether an episode was kept; None when it is not there."""
        try:
            return self._file(seed).stat().st_size > 0
        except FileNotFoundError:
            return None

    def add(self, seed: int, episode: Episode | None, attributes: Mapping[str, str]) -> None:
        """Keep an episode, or that it is left out (None); it is there whole or not at all.

        Raises:
            ReplayError: it cannot be written; the episodes that are there stay.
        """
        file = self._file(seed)
        if episode is None:
            _write(file, b"")
            return
        text = np.frombuffer(json.dumps(dict(attributes)).encode(), np.uint8)
        arrays: dict[str, NDArray[Any]] = {**episode, _ATTRIBUTES: text}
        scratch = file.with_name(f".{file.stem}.{os.getpid()}.npz")
        with _writing(file, scratch):
            np.savez(scratch, **arrays)  # type: ignore[arg-type]
            os.replace(scratch, file)

    def contents(self) -> dict[int, bytes]:
        """Return the files of all episodes by their seeds, for a journal elsewhere."""
        return {
            int(file.stem): file.read_bytes() for file in sorted(self.folder.glob("[0-9]*.npz"))
        }

    def take(self, seed: int, content: bytes) -> None:
        """Keep the file of an episode of a journal elsewhere.

        Raises:
            ReplayError: it cannot be written.
        """
        _write(self._file(seed), content)

    def read(self, seed: int) -> tuple[Episode, dict[str, str]]:
        """Return a kept episode and its attributes.

        Raises:
            ReplayError: its file is damaged.
        """
        file = self._file(seed)
        try:
            with np.load(file, allow_pickle=False) as arrays:
                episode = {name: arrays[name] for name in arrays.files}
            attributes = json.loads(episode.pop(_ATTRIBUTES).tobytes())
        except Exception as error:  # zipfile and numpy raise many kinds
            fix = "remove that file and repeat the command: it is made again"
            raise ReplayError(file, "file", f"cannot be read ({error})", fix) from error
        return episode, attributes

    def episodes(self, seeds: list[int]) -> Iterator[Episode]:
        """Yield kept episodes in the order of ``seeds``."""
        for seed in seeds:
            yield self.read(seed)[0]

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def _writing(file: Path, scratch: Path) -> Iterator[None]:
    """Turn a full disk into a ReplayError, and leave no half of a file."""
    try:
        yield
    except OSError as error:
        fix = "free some space and repeat the command: it goes on from the episodes that are there"
        found = f"cannot be written ({error.strerror or error})"
        raise ReplayError(file.parent, file.name, found, fix) from error
    finally:
        scratch.unlink(missing_ok=True)


def _write(file: Path, content: bytes) -> None:
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    with _writing(file, scratch):
        scratch.write_bytes(content)
        os.replace(scratch, file)
