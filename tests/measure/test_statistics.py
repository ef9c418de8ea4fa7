"""Statistics against published values and exact cases."""

import tracemalloc

import numpy as np
import pytest

from pcm_policy.errors import PcmError
from pcm_policy.measure.statistics import (
    bootstrap_mean_interval,
    paired_difference_interval,
    percentiles,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_matches_newcombe(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_is_symmetric() -> None:
    low, high = wilson_interval(3, 20)
    assert wilson_interval(17, 20) == pytest.approx((1 - high, 1 - low))
    assert wilson_interval(20, 20)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (5, 4), (-1, 4)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(PcmError):
        wilson_interval(successes, trials)


def test_bootstrap_is_close_to_the_normal_interval_and_repeats() -> None:
    values = np.random.default_rng(0).normal(3, 2, 400)
    half = 1.96 * values.std() / 20
    interval = bootstrap_mean_interval(values)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)
    assert interval == bootstrap_mean_interval(values)
    assert bootstrap_mean_interval([0.5] * 4) == (0.5, 0.5)


def test_bootstrap_of_coin_tosses_is_binomial() -> None:
    # Resampled means of 4 zeros and 4 ones are Binomial(8, 1/2) / 8: quantiles 1/8 and 7/8.
    assert bootstrap_mean_interval([0, 1] * 4) == (0.125, 0.875)


def test_pairing_removes_what_pairs_share() -> None:
    random = np.random.default_rng(1)
    shared = random.normal(0, 10, 100)
    low, high = paired_difference_interval(shared + 1 + random.normal(0, 0.1, 100), shared)
    assert 0.95 < low < 1 < high < 1.05
    with pytest.raises(PcmError, match="pairs"):
        paired_difference_interval([1, 2], [1])


def test_percentiles() -> None:
    assert percentiles([0, 1, 2, 9])["mean"] == 3
    found = percentiles(np.arange(101))
    assert found == {"mean": 50, "p50": 50, "p95": 95, "p99": 99, "max": 100}


@pytest.mark.parametrize("values", [[], [1, np.nan], [[1, 2]]])
def test_bad_samples_are_refused(values: list[float]) -> None:
    with pytest.raises(PcmError):
        bootstrap_mean_interval(values)
    with pytest.raises(PcmError):
        percentiles(values)


def test_the_bootstrap_of_many_values_takes_little_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = np.random.default_rng(3).normal(size=400)
    whole = bootstrap_mean_interval(values)
    monkeypatch.setattr("pcm_policy.measure.statistics.DRAWN", 10_000)
    tracemalloc.start()
    parts = bootstrap_mean_interval(values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parts == pytest.approx(whole, rel=1e-12)  # the same draws
    assert peak < 2e6  # all at once take 64 MB
