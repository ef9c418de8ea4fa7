"""What a set of demonstrations may make its reader do: read itself, and no more than it holds."""

import os
from collections.abc import Iterator
from pathlib import Path

from pcm_policy.datasets.errors import ReplayError

_LARGE = 1 << 30
"""Bytes; what is smaller once decoded is never refused for its size."""
_RATIO = 10_000
"""Decoded bytes for each stored one; Blosc of an array of zeros reaches about 250."""


def refuse_links_outside(root: Path) -> None:
    """Refuse a folder in which anything leads out of it.

    A snapshot of the Hugging Face hub may link to the ``blobs`` of its own repository.

    Raises:
        ReplayError: a link that leads out of the folder, or what is neither file nor folder.
    """
    base = root.resolve()
    homes = [base]
    if base.parent.name == "snapshots":
        homes.append(base.parent.parent / "blobs")
    for entry in _entries(base):
        where = str(Path(entry.path).relative_to(base))
        if entry.is_symlink():
            target = Path(entry.path).resolve()
            if not any(target.is_relative_to(home) for home in homes):
                found = f"is a link to {target}, outside of {root.name}"
                fix = "data must hold what they consist of: copy the file there if it belongs to it"
                raise ReplayError(root, where, found, fix)
        if not entry.is_dir() and not entry.is_file():
            found = "is neither a file nor a folder, or a link to nothing"
            raise ReplayError(root, where, found, "copy or download it again")


def _entries(folder: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))


def check_size(
    path: Path, where: str, declared: int, stored: int, array: str | None = None
) -> None:
    """Refuse an array that says to be far larger than what is stored of it.

    Args:
        path: the file or folder.
        where: the array's place in it.
        declared: bytes once decoded.
        stored: bytes on disk.
        array: as of :class:`ReplayError`.

    Raises:
        ReplayError: it is, by a factor that no compression reaches.
    """
    if declared > _LARGE and declared > _RATIO * stored:
        found = f"says to hold {_bytes(declared)}, of which {_bytes(stored)} are stored"
        raise ReplayError(path, where, found, "copy it again: it is cut short or not real", array)


def check_memory(path: Path, where: str, wanted: int, array: str | None = None) -> None:
    """Refuse to read what does not fit into memory.

    Raises:
        ReplayError: ``wanted`` bytes are more than are free.
    """
    free = free_memory()
    if free is not None and wanted > max(free, _LARGE):
        found = f"takes {_bytes(wanted)} of memory, {_bytes(free)} are free"
        raise ReplayError(path, where, found, "name fewer arrays, or use a larger machine", array)


def free_memory() -> int | None:
    """Return the bytes of memory that can be had without swapping; None where nothing tells."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        known = dict(line.split(":", 1) for line in lines)
        return int(known["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    except (OSError, ValueError, AttributeError):
        return None


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 10_000 or unit == "TB":
            return f"{count} {unit}"
        count //= 1000
    return ""
