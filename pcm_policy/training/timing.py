"""Seconds that parts of a training step take."""

import time
from types import TracebackType


class Stopwatch:
    """Adds up the seconds that are spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self._total = self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._total += time.monotonic() - self._began

    def taken(self) -> float:
        """Return the seconds since it was last asked."""
        total, self._total = self._total, 0.0
        return total
