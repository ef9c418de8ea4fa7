"""Statistics of a LeRobot dataset, gathered an episode at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
"""What LeRobot 0.4 and later keep, by name."""
KEPT = 20_000
"""Rows that quantiles are taken of: of more, every second, fourth, ... one."""


class Statistics:
    """Minimum, maximum, mean, deviation and quantiles of rows, merged as they come.

    Means and deviations are exact (Chan et al. 1979). Quantiles are those of all rows together, of
    evenly thinned ones where they are many; LeRobot's are means of the episodes' quantiles.
    """

    def __init__(
        self,
        count: int,
        low: Any,
        high: Any,
        mean: Any,
        square: Any,
        some: NDArray[Any],
        stride: int = 1,
    ) -> None:
        self.count, self.low, self.high, self.mean, self.square = count, low, high, mean, square
        while len(some) > KEPT:
            some, stride = some[::2], 2 * stride
        self.some, self.stride = some.copy(), stride

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
        pixels = found.some[:, :, None, None]
        return cls(len(frames), low, high, mean, square, pixels, found.stride)

    @classmethod
    def of(cls, rows: NDArray[Any]) -> "Statistics":
        """Take the statistics of ``(n, D)`` rows in float64."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return cls(len(rows), rows.min(0), rows.max(0), mean, ((rows - mean) ** 2).sum(0), rows)

    def joined(self, other: "Statistics") -> "Statistics":
        """Return the statistics of both sets of rows."""
        count, stride = self.count + other.count, max(self.stride, other.stride)
        some = [part.some[:: stride // part.stride] for part in (self, other)]
        step = other.mean - self.mean
        return Statistics(
            count,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean + step * (other.count / count),
            self.square + other.square + step**2 * (self.count * other.count / count),
            np.concatenate(some),
            stride,
        )

    def summary(self) -> dict[str, list[Any]]:
        """Return what LeRobot keeps of them."""
        values = {"min": self.low, "max": self.high, "mean": self.mean}
        values["std"] = np.sqrt(self.square / self.count)
        found = np.quantile(self.some, list(QUANTILES.values()), axis=0)
        values |= dict(zip(QUANTILES, found, strict=True))
        return {k: v.tolist() for k, v in values.items()} | {"count": [self.count]}
