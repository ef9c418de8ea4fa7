"""Statistics of a LeRobot dataset, gathered an episode at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Statistics:
    """Minimum, maximum, mean and deviation of rows, merged as they come (Chan et al. 1979)."""

    def __init__(self, count: int, low: Any, high: Any, mean: Any, square: Any) -> None:
        self.count, self.low, self.high, self.mean, self.square = count, low, high, mean, square

    @classmethod
    def of_images(cls, frames: NDArray[Any]) -> "Statistics":
        """Take the statistics of ``(n, H, W, C)`` frames of bytes, ``(C, 1, 1)`` in [0, 1].

        Of large or many frames some are taken, evenly, as LeRobot does.
        """
        skip, stride = max(1, len(frames) // 100), max(1, min(frames.shape[1:3]) // 150)
        some = frames[::skip, ::stride, ::stride]
        found = cls.of(some.reshape(-1, frames.shape[-1]) / 255.0)
        low, high, mean = (v[:, None, None] for v in (found.low, found.high, found.mean))
        square = found.square[:, None, None] / found.count * len(frames)
        return cls(len(frames), low, high, mean, square)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> "Statistics":
        """Take the statistics of ``(n, D)`` rows in float64."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return cls(len(rows), rows.min(0), rows.max(0), mean, ((rows - mean) ** 2).sum(0))

    def joined(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of rows."""
        count = self.count + other.count
        step = other.mean - self.mean
        return Statistics(
            count,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean + step * (other.count / count),
            self.square + other.square + step**2 * (self.count * other.count / count),
        )

    def summary(self) -> dict[str, list[Any]]:
        """Return what LeRobot keeps of them, less the quantiles."""
        values = {"min": self.low, "max": self.high, "mean": self.mean}
        values["std"] = np.sqrt(self.square / self.count)
        return {k: v.tolist() for k, v in values.items()} | {"count": [self.count]}
