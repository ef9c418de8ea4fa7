"""Files that are complete or not there: folders, texts and JSON written atomically."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is complete and on disk.

    An existing folder is replaced; an exception leaves it as it was.

    Raises:
        PcmError: the folder cannot be written (no permission, disk full).
    """
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        yield scratch
        readable = 0o777 & ~_umask()
        scratch.chmod(readable)
        for file in scratch.iterdir():
            file.chmod(readable & 0o666)
            _sync(file)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, old / "previous")
            os.replace(scratch, target)
            shutil.rmtree(old)
        else:
            os.replace(scratch, target)
        _sync(target.parent)
    except OSError as error:
        raise PcmError(
            f"cannot write {target}: {error}; free some space or choose another output_dir"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        PcmError: the file cannot be written.
    """
    write_file(path, lambda scratch: scratch.write_text(text))


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a scratch file beside ``path``, then rename it.

    Raises:
        PcmError: the file cannot be written.
    """
    scratch = path.with_name(f".{path.stem}-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        _sync(scratch)
        os.replace(scratch, path)
    except OSError as error:
        raise PcmError(
            f"cannot write {path}: {error}; free some space or choose another output_dir"
        ) from error
    finally:
        scratch.unlink(missing_ok=True)


def to_json(value: Any) -> str:
    """Return indented JSON that ends with a newline; refuses NaN, which is not JSON."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
