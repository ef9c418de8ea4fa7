"""Durations in buffers of fixed size, and the memory of the process."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CAPACITY = 1_000_000


class Times:
    """The latest durations of one stage, in a buffer of fixed size.

    Args:
        capacity: values kept; count and maximum are over all.
    """

    def __init__(self, capacity: int) -> None:
        self._values = np.zeros(min(max(capacity, 1), CAPACITY), np.float32)
        self.count, self.max = 0, 0.0

    def add(self, ms: float) -> None:
        """Record a duration in milliseconds."""
        self._values[self.count % len(self._values)] = ms
        self.count += 1
        self.max = max(self.max, ms)

    @property
    def kept(self) -> NDArray[np.float32]:
        """What is kept, in no particular order."""
        return self._values[: self.count]

    def summary(self) -> dict[str, float | int]:
        """Return count, mean, p50, p95, p99, p99.9 and max in milliseconds."""
        if not self.count:
            return {"count": 0}
        p50, p95, p99, p999 = np.percentile(self.kept, [50, 95, 99, 99.9])
        return {
            "count": self.count,
            "mean": float(self.kept.mean()),
            "p50": float(p50),
            "p95": float(p95),
            "p99": float(p99),
            "p99.9": float(p999),
            "max": self.max,
        }


def resident_mib() -> float:
    """Return the memory that this process holds now, in MiB; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (OSError, ValueError, IndexError):
        return 0.0


def growth(samples_mib: Sequence[float]) -> float:
    """Return by how much memory grew from the second fifth of a run to its last, in MiB.

    The first fifth is left out: caches and allocators fill up there.
    """
    if len(samples_mib) < 10:
        return 0.0
    fifth = len(samples_mib) // 5
    early, late = samples_mib[fifth : 2 * fifth], samples_mib[-fifth:]
    return float(np.median(late) - np.median(early))
