"""Intervals for success rates and scores, and percentiles for latencies."""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.errors import PcmError

RESAMPLES = 10_000
DRAWN = 1_000_000
"""Counts that are drawn at once, of 8 bytes: memory does not grow with the number of values."""


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a success probability (Wilson 1927, without continuity correction).

    Args:
        successes: Number of successes, 0...trials.
        trials: Number of trials, at least 1.
        confidence: Coverage, between 0 and 1.

    Returns:
        Lower and upper end, within [0, 1].

    Raises:
        PcmError: The counts are impossible.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise PcmError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    centre = rate + z * z / (2 * trials)
    half = z * np.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z * z / trials
    return max(0.0, float((centre - half) / scale)), min(1.0, float((centre + half) / scale))


def bootstrap_mean_interval(
    values: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of a mean by the percentile bootstrap, the same at every call.

    Args:
        values: Independent measurements, (n,).
        confidence: Coverage, between 0 and 1.
        seed: Of the resampling.

    Returns:
        Lower and upper end, in the unit of the values.

    Raises:
        PcmError: There are no values, or one is not finite.
    """
    sample = _sample(values)
    count = len(sample)
    generator, share = np.random.default_rng(seed), np.full(count, 1 / count)
    rows = max(1, DRAWN // count)
    means = np.concatenate(
        [
            generator.multinomial(count, share, min(rows, RESAMPLES - done)) @ sample / count
            for done in range(0, RESAMPLES, rows)
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def paired_difference_interval(
    first: ArrayLike, second: ArrayLike, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Interval of mean(first - second) over pairs, such as two policies on the same seeds.

    Args:
        first: Measurements, (n,).
        second: Measurements of the same n cases, in the same order.
        confidence: Coverage, between 0 and 1.
        seed: Of the resampling.

    Returns:
        Lower and upper end, in the unit of the values.

    Raises:
        PcmError: The numbers of values differ, there are none, or one is not finite.
    """
    a, b = _sample(first), _sample(second)
    if len(a) != len(b):
        raise PcmError(f"pairs need equal numbers of values, not {len(a)} and {len(b)}")
    return bootstrap_mean_interval(a - b, confidence, seed)


def percentiles(latencies_ms: ArrayLike) -> dict[str, float]:
    """Summarise latencies as mean, p50, p95, p99 and max, in milliseconds.

    Raises:
        PcmError: There are no values, or one is not finite.
    """
    sample = _sample(latencies_ms)
    p50, p95, p99 = np.percentile(sample, [50, 95, 99])
    found = {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(sample.max())}
    return {"mean": float(sample.mean())} | found


def _sample(values: ArrayLike) -> NDArray[np.float64]:
    sample = np.asarray(values, np.float64)
    if sample.ndim != 1 or len(sample) == 0 or not np.isfinite(sample).all():
        raise PcmError(f"need a list of finite values, not {sample.size} of shape {sample.shape}")
    return sample
