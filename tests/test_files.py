"""Files are complete or not there, on file systems that cannot all that ours can."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, parse_json, read_json, write_file, write_text


def test_files_are_synced_through_writable_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows: EBADF for a handle that only reads, and folders cannot be opened."""
    synced, opened, fsync = [], os.open, os.fsync

    def strict(handle: int) -> None:
        import fcntl

        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "bad file descriptor")
        synced.append(handle)
        fsync(handle)

    def no_folders(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "is a folder")
        return opened(path, flags, *rest, **more)

    monkeypatch.setattr(os, "fsync", strict)
    monkeypatch.setattr(os, "open", no_folders)
    write_text(tmp_path / "a.txt", "Übung")
    with atomic_folder(tmp_path / "p") as folder:
        (folder / "b.txt").write_text("b")
    assert len(synced) == 2
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "Übung"
    assert (tmp_path / "p/b.txt").read_text() == "b"


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_without_fsync_still_gets_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def none(handle: int) -> None:
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "fsync", none)
    with atomic_folder(tmp_path / "p") as folder:
        (folder / "b.txt").write_text("b")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]


def test_a_disk_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(PcmError, match="cannot write"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_two_threads_may_write_one_file(tmp_path: Path) -> None:
    """Each has a scratch file of its own: the last one wins, and nobody fails."""
    both, failed = threading.Barrier(2), []

    def write(scratch: Path, text: str) -> None:
        scratch.write_text(text)
        both.wait()

    def run(text: str) -> None:
        try:
            write_file(tmp_path / "a.txt", lambda scratch: write(scratch, text))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert (tmp_path / "a.txt").read_text() in ("one", "two")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "{", b"\xff\xfe", "1" * 5000])
def test_json_that_is_none_is_one_line(tmp_path: Path, text: str | bytes) -> None:
    with pytest.raises(PcmError, match=r"^env_args is"):
        parse_json(text, "env_args")
    file = tmp_path / "a.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(PcmError, match=r"a.json is"):
        read_json(file)
    with pytest.raises(PcmError, match="cannot be read"):
        read_json(tmp_path / "none.json")
