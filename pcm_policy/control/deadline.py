"""A deadline for anytime solving: stop while there is still time for what comes after."""

import time
from collections.abc import Callable

Stop = Callable[[], bool]
"""Asked after every round of a solve; True ends it with the best chunk so far."""


class Deadline:
    """End a solve when another round, as slow as the slowest so far, would end too late.

    Args:
        ms: time from now until the chunk is wanted, in milliseconds.
        finish: waits for the device; called before each look at the clock, so that a round's time
            does not include work of other rounds.
        clock: returns seconds; for tests.
    """

    def __init__(
        self,
        ms: float,
        finish: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._finish, self._clock = finish, clock
        self._last = clock()
        self._end = self._last + ms / 1e3
        self._slowest = 0.0

    def __call__(self) -> bool:
        """Return whether the next round should not be started."""
        self._finish()
        now = self._clock()
        self._slowest, self._last = max(self._slowest, now - self._last), now
        return now + self._slowest > self._end
