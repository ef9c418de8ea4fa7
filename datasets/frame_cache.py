"""A file of decoded frames beside a run, made again whenever what it was decoded from changes."""

import errno
import glob
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.files import write_text

Image = NDArray[np.uint8]


def cached_frames(
    source: Path,
    key: str,
    selection: str | None,
    shape: tuple[int, ...],
    blocks: Iterable[Image],
    cache: Path,
) -> Image:
    """Map a file with frames ``(n, H, W, 3)``; decode them into it unless it has them already.

    Runs that share a folder decode one after another, so that the second finds what the first made.

    Args:
        source: replay buffer or robomimic file.
        key: name of the camera's array.
        selection: filter key of the demonstrations; None for all.
        shape: of all frames together.
        blocks: the frames in order, read when they are needed alone.
        cache: folder of the file.

    Raises:
        ReplayError: there is no room for the frames, or the folder cannot be written.
    """
    stamp: list[Any] = [str(source.resolve()), key, selection, list(shape), _state_of(source, key)]
    name = hashlib.sha256(json.dumps(stamp[:4]).encode()).hexdigest()[:8]
    file = cache / f"{source.name}.{key}.{name}.frames"
    note, size = file.with_suffix(".json"), int(np.prod(shape))
    if not _is_current(file, note, stamp, size):
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache) as alone:
                if not _is_current(file, note, stamp, size):
                    if alone:
                        _clear(file)
                    _decode(file, shape, blocks, key)
                    write_text(note, json.dumps(stamp))
        except OSError as error:
            much = f"{size / 1e9:.2f} GB of decoded frames"
            fix = "free some space or choose another output_dir"
            raise ReplayError(file, much, f"cannot be written ({error})", fix) from error
    mapped: Image = np.memmap(file, np.uint8, "r", shape=shape)
    return mapped


def _state_of(source: Path, key: str) -> str:
    """Return a digest of names, sizes and times of the files that hold an array."""
    folder = source / "data" / key
    files = [source]
    if source.is_dir():
        files = sorted(p for p in (folder if folder.is_dir() else source).rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        found = file.stat()
        line = f"{file.relative_to(source)} {found.st_size} {found.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_current(file: Path, note: Path, stamp: list[Any], size: int) -> bool:
    try:
        return file.stat().st_size == size and json.loads(note.read_text()) == stamp
    except (OSError, ValueError):
        return False


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Wait until no other run decodes into a folder; say whether the file system can tell.

    The system takes the lock off however a run ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tqdm.write(f"another run decodes into {folder}: waiting for it", file=sys.stderr)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:  # not on this file system
            locked = False
        yield locked
    finally:
        os.close(handle)


def _clear(file: Path) -> None:
    """Remove what a run left that was killed while it decoded; there is no other one."""
    for left in file.parent.glob(f".{glob.escape(file.name)}.*"):
        left.unlink(missing_ok=True)


def _decode(file: Path, shape: tuple[int, ...], blocks: Iterable[Image], key: str) -> None:
    """Write frames with ordinary writes: a full disk is an error then, and no signal."""
    scratch = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with scratch.open("wb") as out:
            _reserve(out, int(np.prod(shape)))
            what = f"decoding {key}, {np.prod(shape) / 1e9:.2f} GB into {file.parent}"
            with tqdm(total=shape[0], desc=what, unit="frame", disable=None) as bar:
                for block in blocks:
                    out.write(np.ascontiguousarray(block).data)
                    bar.update(len(block))
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)


def _reserve(out: BinaryIO, size: int) -> None:
    """Ask for all the room before hours of decoding, where the file system can be asked."""
    if size == 0 or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(out.fileno(), 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
