"""The folder of a run: one run at a time, and never over the files of another run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pcm_policy.errors import PcmError
from pcm_policy.training.saying import is_first, say

CHECKPOINTS, POLICY, METRICS = "checkpoints", "policy", "metrics.jsonl"
FRAMES, SOLVED = "frames", "solved"


@contextmanager
def occupied(output: Path, *, resume: bool) -> Iterator[None]:
    """Hold a run's folder: another run that wants it is refused until this one ends.

    A lock on ``.lock`` says so, which the system takes off however the run ends. Of several
    processes the first one holds it.

    Args:
        output: the folder, which exists.
        resume: whether the run goes on with what is there.

    Raises:
        PcmError: another run holds the folder; or it holds a policy, metrics or checkpoints, and
            this run does not resume; or it holds a policy that no checkpoint here belongs to.
    """
    if not is_first():
        yield
        return
    try:
        handle = os.open(output / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise PcmError(f"output_dir={output} cannot be written: {error}") from error
    try:
        _lock(handle, output)
        _refuse_what_is_there(output, resume)
        try:
            (output / CHECKPOINTS).mkdir(exist_ok=True)
        except OSError as error:
            raise PcmError(f"output_dir={output} cannot be written: {error}") from error
        try:
            yield
        except BaseException:
            _leave_nothing(output)
            raise
    finally:
        os.close(handle)


def _leave_nothing(output: Path) -> None:
    """Remove the folder of checkpoints that a run has not used, so that it can be tried again."""
    if not (output / METRICS).exists():
        with suppress(OSError):  # it holds something
            (output / CHECKPOINTS).rmdir()


def _lock(handle: int, output: Path) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise PcmError(
            f"another run is using output_dir={output}: wait for its end or choose another folder"
        ) from error
    except OSError as error:
        say(f"output_dir={output} cannot be locked ({error}): start no other run in it")


def _refuse_what_is_there(output: Path, resume: bool) -> None:
    found = [name for name in (CHECKPOINTS, POLICY, METRICS) if (output / name).exists()]
    if found and not resume:
        raise PcmError(
            f"{output / found[0]} exists: continue it with resume=true or choose another output_dir"
        )
    if POLICY in found and not any((output / CHECKPOINTS).glob("step-*")):
        raise PcmError(
            f"{output / POLICY} exists, and no checkpoint to resume from: choose another output_dir"
        )
