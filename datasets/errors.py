"""The one exception about demonstrations: where in which file, what is there, and what to do."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError, printable


def plain(text: str) -> str:
    """Return a text on one line without control codes: names in a file may hold any character."""
    return printable(" ".join(text.split()))


class ReplayError(PcmError):
    """One fault of one set of demonstrations.

    Args:
        path: the file or folder.
        where: the part of it.
        found: what is there.
        fix: what to do.
        array: the array at fault, where the others can be read without it.
    """

    def __init__(
        self, path: Path, where: str, found: str, fix: str, array: str | None = None
    ) -> None:
        where, found, fix = plain(where), plain(found), plain(fix)
        super().__init__(path, where, found, fix)
        self.path, self.where, self.found, self.fix = path, where, found, fix
        self.array = array

    def __str__(self) -> str:
        return printable(f"{self.path}: {self.where}: {self.found}; {self.fix}")

    def but(self, advice: str) -> "ReplayError":
        """Return the same fault with one piece of advice more, about no array."""
        return ReplayError(self.path, self.where, self.found, f"{self.fix}; {advice}")


def place(row: int, ends: NDArray[np.int64] | None) -> str:
    """Name a row for a message, with its episode where the episode ends are known to be good."""
    if ends is None:
        return f"row {row}"
    return f"row {row} (episode {np.searchsorted(ends, row, side='right')})"
