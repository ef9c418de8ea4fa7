"""``metrics.jsonl``: one line of JSON for each report of a run."""

import json
import math
from collections.abc import Mapping
from pathlib import Path

from pcm_policy.errors import PcmError
from pcm_policy.files import write_text
from pcm_policy.training.saying import say


class Metrics:
    """The lines of a run; a resumed run drops those after its checkpoint.

    If a line cannot be written, for example on a full disk, training goes on and says so once.

    Args:
        path: the file; its folder exists.
        done: number of completed steps.

    Raises:
        PcmError: the file is there and cannot be read or replaced.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path, self._said = path, False
        write_text(path, "".join(f"{line}\n" for line in _kept(path, done)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line; what is not finite becomes null, since JSON has no NaN."""
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": step, **finite}) + "\n")
        except OSError as error:
            if not self._said:
                say(f"{self.path} cannot be written ({error}): training goes on without its lines")
            self._said = True


def _kept(path: Path, done: int) -> list[str]:
    """Return the lines up to a step, without one that a kill cut short."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise PcmError(f"{path} cannot be read: {error}; choose another output_dir") from error
    return [line for line in lines if 0 <= _step(line) <= done]


def _step(line: str) -> int:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1
    return step if type(step) is int else -1
