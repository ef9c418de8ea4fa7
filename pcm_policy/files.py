"""Files that are complete or not there: folders, texts and JSON written atomically."""

import errno
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
            _sync_file(file)
            file.chmod(readable & 0o666)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
            os.replace(target, old / "previous")
            os.replace(scratch, target)
            shutil.rmtree(old)
        else:
            os.replace(scratch, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise PcmError(
            f"cannot write {target}: {error}; free some space or choose another output_dir"
        ) from error
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


def refuse_existing(
    path: Path, overwrite: bool, instead: str = "another output_dir, or overwrite=true"
) -> None:
    """Refuse to replace a result, before any work is done for the next one.

    Args:
        path: of the result.
        overwrite: whether it may be replaced.
        instead: what the message asks for.

    Raises:
        PcmError: the file is there and ``overwrite`` is not set.
    """
    if path.exists() and not overwrite:
        raise PcmError(f"{path} is there already: give {instead}")


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically.

    Raises:
        PcmError: the file cannot be written.
    """
    write_file(path, lambda scratch: scratch.write_text(text, encoding="utf-8"))


def write_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a scratch file beside ``path``, then rename it.

    Raises:
        PcmError: the file cannot be written.
    """
    scratch = path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        scratch.chmod(0o666 & ~_umask())  # safetensors makes files that their owner alone can read
        _sync_file(scratch)
        os.replace(scratch, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise PcmError(
            f"cannot write {path}: {error}; free some space or choose another output_dir"
        ) from error
    finally:
        with suppress(OSError):  # there is none, or no folder for it
            scratch.unlink()


def to_json(value: Any) -> str:
    """Return indented JSON that ends with a newline; refuses NaN, which is not JSON."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def parse_json(text: str | bytes, name: str = "the text") -> Any:
    """Return what a JSON text holds.

    Args:
        text: from a file that somebody else may have written.
        name: of the text, for the message.

    Raises:
        PcmError: it is no JSON, or nested deeper than any settings are.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise PcmError(f"{name} is nested too deeply to be settings: restore it") from error
    except ValueError as error:
        raise PcmError(f"{name} is not JSON ({error}): restore it") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        PcmError: it cannot be read, or is no JSON.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PcmError(f"{path} cannot be read: {error}") from error
    return parse_json(content, str(path))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_file(path: Path) -> None:
    """Wait until a file is on disk; through a writable handle, which Windows asks for."""
    with path.open("rb+") as file:
        _fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Wait until a folder's entries are on disk, where the system can do that."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _fsync(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:  # network and user-space file systems that cannot
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
