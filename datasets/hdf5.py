"""HDF5 files, opened for reading only after nothing in them leads to another file. Needs h5py."""

import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.trust import check_size
from pcm_policy.datasets.unknown import what_it_is
from pcm_policy.optional import require

MAGIC = b"\x89HDF\r\n\x1a\n"
_METADATA = 1 << 20
"""Bytes of a file's structure that HDF5 keeps. By itself it keeps more the more arrays there are,
up to 32 MiB, which take several times as much memory."""
_INSIDE = "a file may hold nothing that lies outside of it: copy the data into it"


def is_hdf5(path: str | Path) -> bool:
    """Say whether a path is an HDF5 file, by its first bytes or, if it is damaged, its name."""
    path = Path(path)
    if not path.is_file():
        return path.suffix in (".hdf5", ".h5")
    with path.open("rb") as file:
        return file.read(8) == MAGIC or path.suffix in (".hdf5", ".h5")


def open_file(path: Path) -> Any:
    """Open a file for reading.

    Raises:
        PcmError: h5py is not installed; or a ReplayError: the file is missing, no HDF5 file, cut
            short, or refers to other files.
    """
    try:
        file = _opened(path)
    except FileNotFoundError as error:
        found = "cannot be opened: there is no such file"
        raise ReplayError(path, "file", found, "check the path") from error
    except OSError as error:
        found, fix = what_it_is(path) or (f"cannot be opened ({error})", "copy it again")
        raise ReplayError(path, "file", found, fix) from error
    try:
        about = path.stat()
        _vetted(path.resolve(), about.st_mtime_ns, about.st_size, about.st_ino)
    except BaseException:
        file.close()
        raise
    return file


def _opened(path: Path) -> Any:
    file = require("h5py", "an HDF5 file", "convert").File(path, "r")
    kept = file.id.get_mdc_config()
    kept.set_initial_size = True
    kept.initial_size = kept.min_size = kept.max_size = _METADATA
    file.id.set_mdc_config(kept)
    return file


@lru_cache(maxsize=64)
def _vetted(path: Path, changed: int, size: int, node: int) -> None:
    """Look at every link and every array of a file once; the numbers are its version."""
    h5py = require("h5py", "an HDF5 file", "convert")
    links: list[tuple[str, int]] = []
    with _opened(path) as file:
        file.id.links.visit(lambda name, info: links.append((name.decode(), info.type)), info=True)
        for name, kind in links:
            if kind not in (h5py.h5l.TYPE_HARD, h5py.h5l.TYPE_SOFT):
                link = file.get(name, getlink=True) if kind == h5py.h5l.TYPE_EXTERNAL else None
                target = getattr(link, "filename", "something of another program")
                raise ReplayError(path, name, f"is a link to {target}", _INSIDE)
            if kind == h5py.h5l.TYPE_HARD:
                _check_storage(path, name, file[name])


def _check_storage(path: Path, name: str, node: Any) -> None:
    """Refuse an array whose values lie in other files."""
    if not hasattr(node, "shape") or not hasattr(node, "id"):
        return
    for other, *_ in node.external or ():
        raise ReplayError(path, name, f"keeps its values in {other}", _INSIDE)
    if node.is_virtual:
        for source in node.virtual_sources():
            if source.file_name != ".":
                raise ReplayError(path, name, f"takes its values from {source.file_name}", _INSIDE)


def find(path: Path, group: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Find the arrays of a group and of the groups in it.

    Returns:
        The arrays, unread, by their place below the group; and what leads to no array: the place,
        and why.
    """
    arrays: dict[str, Any] = {}
    odd: dict[str, str] = {}
    _walk(group, "", arrays, odd, set())
    return dict(sorted(arrays.items())), odd


def _walk(
    group: Any, prefix: str, arrays: dict[str, Any], odd: dict[str, str], above: set[Any]
) -> None:
    h5py = require("h5py", "an HDF5 file", "convert")
    here = above | {h5py.h5o.get_info(group.id).addr}
    for key in group:
        name = f"{prefix}{key}"
        try:
            node = group[key]
        except (KeyError, OSError):
            odd[name] = "(a link to nothing)"
            continue
        if isinstance(node, h5py.Dataset):
            arrays[name] = node
        elif isinstance(node, h5py.Group):
            if h5py.h5o.get_info(node.id).addr in here:
                odd[name] = "(a link to a group above it)"
            else:
                _walk(node, f"{name}/", arrays, odd, here)


def no_numbers(array: Any) -> str | None:
    """Say what an array holds if it is no array of numbers: ``(text)``; None for numbers."""
    h5py = require("h5py", "an HDF5 file", "convert")
    if array.shape is None:
        return "(empty)"
    kind = array.dtype
    if kind.kind in "SU" or h5py.check_string_dtype(kind) is not None:
        return "(text)"
    if kind.kind in "biuf":
        return None
    if h5py.check_vlen_dtype(kind) is not None:
        return "(lists of different lengths)"
    return {"c": "(complex numbers)", "V": "(structures)"}.get(kind.kind, f"({kind})")


def readable(path: Path, where: str, array: Any, name: str) -> None:
    """Check that an array can be decoded, before it is.

    Raises:
        ReplayError: a filter that it was compressed with is not installed, or it says to be far
            larger than it is stored.
    """
    h5py = require("h5py", "an HDF5 file", "convert")
    made = array.id.get_create_plist()
    for i in range(made.get_nfilters()):
        number, _, _, called = made.get_filter(i)
        if not h5py.h5z.filter_avail(number) and not _plugins(number):
            called = called.decode(errors="replace") or "without a name"
            found = f"is compressed with the HDF5 filter {number} ({called}), which h5py lacks"
            raise ReplayError(path, where, found, "pip install hdf5plugin", name)
    declared = array.size * array.dtype.itemsize if array.shape is not None else 0
    check_size(path, where, declared, array.id.get_storage_size(), name)


def _plugins(number: int) -> bool:
    """Register the filters of the package hdf5plugin, where it is; say whether one is there now."""
    h5py = require("h5py", "an HDF5 file", "convert")
    try:
        importlib.import_module("hdf5plugin")
    except ImportError:
        return False
    return bool(h5py.h5z.filter_avail(number))
