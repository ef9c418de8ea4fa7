"""Action limits: the range, the rate, and which of the two wins."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits


def chunk(seed: int, scale: float = 3.0, shape: tuple[int, ...] = (3, 6, 2)) -> NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def slow(
    limits: ActionLimits, actions: NDArray[np.float32], previous: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """One number at a time."""
    batch, steps, dims = actions.shape
    low = np.broadcast_to(-np.inf if limits.low is None else limits.low, dims)
    high = np.broadcast_to(np.inf if limits.high is None else limits.high, dims)
    rate = np.broadcast_to(np.inf if limits.max_step is None else limits.max_step, dims)
    out = np.zeros(actions.shape)
    for b in range(batch):
        for d in range(dims):
            last = None if previous is None else float(previous[b, d])
            for i in range(steps):
                goal = min(max(float(actions[b, i, d]), low[d]), high[d])
                if last is not None:
                    goal = last + min(max(goal - last, -rate[d]), rate[d])
                last = out[b, i, d] = min(max(goal, low[d]), high[d])
    return out


bounds = st.sampled_from([None, np.array([-1.0, -0.5])])
tops = st.sampled_from([None, np.array([1.0, 2.0])])
rates = st.sampled_from([None, 0.25, np.array([0.1, 5.0])])


@given(bounds, tops, rates, st.integers(0, 2**31), st.sampled_from([None, 0.5, 4.0]))
def test_limits_against_a_slow_rewrite(
    low: Any, high: Any, rate: Any, seed: int, away: float | None
) -> None:
    limits = ActionLimits(low, high, rate)
    actions = chunk(seed)
    previous = None if away is None else chunk(seed + 1, away, (3, 2))
    kept = actions.copy()
    out = limits.apply(actions, previous)
    np.testing.assert_allclose(out, slow(limits, actions, previous), rtol=0, atol=1e-5)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(actions, kept)
    if low is not None:
        assert (out >= low - 1e-6).all()
    if high is not None:
        assert (out <= high + 1e-6).all()
    if rate is not None:
        assert (np.abs(np.diff(out, axis=1)) <= rate + 1e-5).all()


def test_no_limit_changes_nothing_and_shares_nothing() -> None:
    actions = chunk(0)
    out = ActionLimits().apply(actions)
    np.testing.assert_array_equal(out, actions)
    assert not np.shares_memory(out, actions)


def test_the_first_action_is_rate_limited_only_against_a_known_one() -> None:
    limits = ActionLimits(max_step=1.0)
    actions = np.array([[[5.0], [5.0], [5.0]]], np.float32)
    assert limits.apply(actions).ravel().tolist() == [5.0, 5.0, 5.0]
    assert limits.apply(actions, np.zeros((1, 1), np.float32)).ravel().tolist() == [1.0, 2.0, 3.0]


def test_the_range_wins_over_the_rate() -> None:
    limits = ActionLimits(np.array([0.0]), np.array([1.0]), 0.5)
    outside = np.array([[4.0]], np.float32)
    # from 4 the rate alone allows 3.5: the edge first, and the rate from there
    out = limits.apply(np.zeros((1, 4, 1), np.float32), outside)
    assert out.ravel().tolist() == [1.0, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"low": np.array([0.0, 2.0]), "high": np.array([1.0, 1.0])}, "low .* lies above high"),
        ({"max_step": 0.0}, "max_step 0.0 must be positive"),
        ({"max_step": np.array([1.0, -1.0])}, "max_step .* must be positive"),
    ],
)
def test_impossible_limits_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(PcmError, match=match) as caught:
        ActionLimits(**options)
    assert "\n" not in str(caught.value)


def test_a_range_of_one_value_is_that_value() -> None:
    held = ActionLimits(low=0.5, high=0.5).apply(np.zeros((1, 3, 2), np.float32))
    np.testing.assert_array_equal(held, np.full((1, 3, 2), 0.5, np.float32))


def test_what_leaves_is_checked_as_float32() -> None:
    """Finite going in, and yet too large for what the robot is sent."""
    before: Any = np.full((1, 2), 1e300)
    with pytest.raises(PcmError, match="the limited action is not finite"):
        ActionLimits(max_step=1.0).apply(np.zeros((1, 1, 2), np.float32), before)
