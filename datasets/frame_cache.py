"""A file of decoded frames beside a run, made again whenever what it was decoded from changes."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable
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
    note = file.with_suffix(".json")
    if not _is_current(file, note, stamp, int(np.prod(shape))):
        try:
            _decode(file, shape, blocks, key)
        except OSError as error:
            size = f"{np.prod(shape) / 1e9:.2f} GB of decoded frames"
            fix = "free some space or choose another output_dir"
            raise ReplayError(file, size, f"cannot be written ({error})", fix) from error
        write_text(note, json.dumps(stamp))
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


def _decode(file: Path, shape: tuple[int, ...], blocks: Iterable[Image], key: str) -> None:
    """Write frames with ordinary writes: a full disk is an error then, and no signal."""
    file.parent.mkdir(parents=True, exist_ok=True)
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
