"""A data set in parts: a folder of sources, and a manifest with the checksums of their files.

::

    FOLDER/manifest.json      {"parts": {NAME: {"format": ..., "episodes": ..., "files": {...}}}}
    FOLDER/NAME               a file or folder of any format; parts come in the order of their names

``files`` has the size and the SHA-256 of every file of a part, by its place in it; of a part that
is one file the place is empty.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.trust import refuse_links_outside
from pcm_policy.errors import PcmError
from pcm_policy.files import read_json, to_json, write_text

MANIFEST = "manifest.json"
_AGAIN = "copy it again, or make a new manifest by pcm-data manifest {} overwrite=true"
_VERSION = 1


@dataclass(frozen=True)
class Part:
    """One source of a data set.

    Attributes:
        name: of its file or folder.
        format: its format's name.
        episodes: how many it holds.
        files: size in bytes and SHA-256 of every file, by its place in the part.
    """

    name: str
    format: str
    episodes: int
    files: Mapping[str, tuple[int, str]]

    def describe(self) -> str:
        """Return a line about it."""
        size = sum(size for size, _ in self.files.values())
        return f"{self.name}: {self.format}, {self.episodes} episodes, {size / 1e6:.1f} MB"

    def missing(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield files that are not there with their size: place and what is found, unread."""
        for place, (size, _) in self.files.items():
            file = folder / self.name / place
            if not file.is_file():
                yield f"{self.name}/{place}".rstrip("/"), "is missing"
            elif file.stat().st_size != size:
                found = f"has {file.stat().st_size} bytes, the manifest says {size}"
                yield f"{self.name}/{place}".rstrip("/"), found

    def damaged(self, folder: Path) -> Iterator[tuple[str, str]]:
        """Yield all that differs from the manifest; every file is read."""
        wrong = dict(self.missing(folder))
        yield from wrong.items()
        for place, (_, digest) in self.files.items():
            name = f"{self.name}/{place}".rstrip("/")
            if name not in wrong and _digest(folder / self.name / place) != digest:
                yield name, "is damaged: another checksum than in the manifest"
        for place in sorted(_files(folder / self.name).keys() - self.files.keys()):
            yield f"{self.name}/{place}", "is not in the manifest"


def write_manifest(folder: Path, *, overwrite: bool = False) -> list[Part]:
    """Write the manifest of a folder whose entries are sources, and return the parts.

    Args:
        folder: hidden entries and an older manifest are passed over.
        overwrite: whether an older one is replaced.

    Raises:
        PcmError: there is a manifest, no entry, or one that is of no format that is known, or
            damaged.
    """
    file = folder / MANIFEST
    if not folder.is_dir():
        raise ReplayError(folder, "store", "is no folder", "name the folder that the parts are in")
    if file.exists() and not overwrite:
        raise PcmError(f"{file} is there already: pcm-data verify compares, overwrite=true renews")
    refuse_links_outside(folder)
    names = sorted(p.name for p in folder.iterdir() if p.name[0] != "." and p.name != MANIFEST)
    if not names:
        raise ReplayError(folder, "store", "holds no parts", "put the parts into it")
    parts = [_part(folder / name) for name in names]
    text = {
        part.name: {
            "format": part.format,
            "episodes": part.episodes,
            "files": {place: list(known) for place, known in part.files.items()},
        }
        for part in parts
    }
    write_text(file, to_json({"manifest": _VERSION, "parts": text}))
    return parts


def read_manifest(folder: Path) -> list[Part]:
    """Return the parts of a data set, in their order; nothing of them is read.

    Raises:
        PcmError: the manifest is damaged, or names what lies outside of the folder.
    """
    file = folder / MANIFEST
    read = read_json(file)
    try:
        if read["manifest"] != _VERSION:
            raise ValueError(f"version {read['manifest']}, this program reads {_VERSION}")
        return [_read_part(name, about) for name, about in read["parts"].items()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        fix = "copy it again, or make a new one by pcm-data manifest"
        raise ReplayError(folder, MANIFEST, f"is damaged ({error!r})", fix) from error


def is_manifest(folder: Path) -> bool:
    """Say whether a folder has a manifest of parts."""
    file = folder / MANIFEST
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return b'"manifest"' in opened.read(64)


def verify(folder: Path) -> list[str]:
    """Read every file and return a line for each that is not as the manifest says.

    Raises:
        PcmError: there is no manifest, or it is damaged.
    """
    if not is_manifest(folder):
        raise ReplayError(folder, MANIFEST, "is missing", f"pcm-data manifest {folder} makes it")
    refuse_links_outside(folder)
    return [
        f"{folder}: {name} {found}"
        for part in read_manifest(folder)
        for name, found in part.damaged(folder)
    ]


def refuse_missing(folder: Path, part: Part) -> None:
    """Raise ReplayError for the first file of a part that is missing or of another size."""
    for name, found in part.missing(folder):
        raise ReplayError(folder, name, found, _AGAIN.format(folder))


def _part(path: Path) -> Part:
    known = source_format(path)
    files = {place: (file.stat().st_size, _digest(file)) for place, file in _files(path).items()}
    return Part(path.name, known.name, known.read(path).n_episodes, files)


def _read_part(name: str, about: Any) -> Part:
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise ValueError(f"a part called {name!r}")
    files = {}
    for place, (size, digest) in about["files"].items():
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ValueError(f"a file called {place!r}")
        if type(size) is not int or not isinstance(digest, str):
            raise ValueError(f"{place!r} of {size!r} bytes")
        files[place] = (size, digest)
    if type(about["episodes"]) is not int or not files:
        raise ValueError(f"{name!r} of {about['episodes']!r} episodes in {len(files)} files")
    return Part(name, str(about["format"]), about["episodes"], files)


def _files(path: Path) -> dict[str, Path]:
    """Return the files of a part by their place in it, sorted; of a file ``""``."""
    if path.is_file():
        return {"": path}
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file for file in files}


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
