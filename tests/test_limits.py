"""Limits on what reaches the robot."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits

LOW, HIGH, STEP = np.array([-1.0, 0.0]), np.array([1.0, 2.0]), np.array([0.25, 0.5])
reals = st.floats(-5, 5, width=32)
chunks = hnp.arrays(np.float32, (2, 6, 2), elements=reals)
single = hnp.arrays(np.float32, (2, 2), elements=reals)
EPS = 1e-6


def chunk(*rows: tuple[float, float]) -> NDArray[np.float32]:
    return np.array([rows], dtype=np.float32)


def test_no_limit_changes_nothing_and_copies() -> None:
    actions = chunk((9, -9), (1, 1))
    out = ActionLimits().apply(actions)
    np.testing.assert_array_equal(out, actions)
    out[:] = 0
    assert actions[0, 0, 0] == 9


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (LOW, HIGH, [(1, 0), (-1, 2)]),
        (LOW, None, [(3, 0), (-1, 3)]),
        (None, HIGH, [(1, -3), (-3, 2)]),
    ],
)
def test_range(low: Any, high: Any, expected: list[tuple[float, float]]) -> None:
    actions = chunk((3, -3), (-3, 3))
    out = ActionLimits(low, high).apply(actions)
    np.testing.assert_array_equal(out, chunk(*expected))
    np.testing.assert_array_equal(actions, chunk((3, -3), (-3, 3)))  # the input is left alone
    assert out.dtype == np.float32


def test_rate_within_a_chunk() -> None:
    out = ActionLimits(max_step=STEP).apply(chunk((0, 0), (1, 0.1), (1, 5), (1, 5)))
    np.testing.assert_allclose(out, chunk((0, 0), (0.25, 0.1), (0.5, 0.6), (0.75, 1.1)), rtol=1e-6)


def test_rate_from_the_action_before() -> None:
    previous = np.array([[-1, 1]], dtype=np.float32)
    limits = ActionLimits(max_step=0.5)
    actions = chunk((1, 1.2), (1, 1.2))
    out = limits.apply(actions, previous)
    np.testing.assert_allclose(out, chunk((-0.5, 1.2), (0, 1.2)), rtol=1e-6)
    np.testing.assert_array_equal(limits.apply(actions), actions)
    assert previous.tolist() == [[-1, 1]]


def test_range_wins_over_rate_when_the_robot_stands_outside() -> None:
    previous = np.array([[5, 1]], dtype=np.float32)
    out = ActionLimits(LOW, HIGH, 0.5).apply(chunk((0, 1), (0, 1), (0, 1)), previous)
    np.testing.assert_allclose(out[0, :, 0], [1, 0.5, 0])


@settings(deadline=None)
@given(chunks, single, st.booleans())
def test_every_action_keeps_every_limit(
    actions: NDArray[np.float32], previous: NDArray[np.float32], known: bool
) -> None:
    out = ActionLimits(LOW, HIGH, STEP).apply(actions, previous if known else None)
    assert out.shape == actions.shape
    assert (out >= LOW - EPS).all()
    assert (out <= HIGH + EPS).all()
    assert (np.abs(np.diff(out, axis=1)) <= STEP + EPS).all()
    inside = known & ((previous >= LOW) & (previous <= HIGH))
    assert (
        np.abs(out[:, 0] - previous)[inside] <= np.broadcast_to(STEP, (2, 2))[inside] + EPS
    ).all()
    again = ActionLimits(LOW, HIGH, STEP).apply(out, previous if known else None)
    np.testing.assert_allclose(again, out, atol=EPS)


@settings(deadline=None)
@given(single, st.integers(0, 2**31))
def test_good_actions_pass_unchanged(start: NDArray[np.float32], seed: int) -> None:
    steps = np.random.default_rng(seed).uniform(-0.1, 0.1, size=(2, 6, 2)).cumsum(axis=1)
    actions = (start[:, None] + steps).astype(np.float32)
    wide = np.array([10.0, 10.0])
    np.testing.assert_allclose(
        ActionLimits(-wide, wide, 0.2).apply(actions, start), actions, atol=EPS
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"low": HIGH, "high": LOW}, "lies above"),
        ({"low": np.array([0.0, 3.0]), "high": np.array([1.0, 2.0])}, "lies above"),
        ({"max_step": 0.0}, "must be positive"),
        ({"max_step": np.array([0.1, -0.1])}, "must be positive"),
    ],
)
def test_senseless_limits_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(PcmError, match=words):
        ActionLimits(**options)
