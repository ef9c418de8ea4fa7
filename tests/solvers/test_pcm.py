"""Model switching against the published formula."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.errors import PcmError
from pcm_policy.solvers.pcm import ramp


@given(st.integers(1, 100), st.floats(0.01, 100))
def test_ramp_is_so_et_al_lambda(rounds: int, stiffness: float) -> None:
    """lambda(k) = clip(1 - s k / K, 0, 1) for k = 0 ... K - 1 (So et al. 2025)."""
    k = np.arange(rounds)
    expected = np.clip(1 - stiffness * k / rounds, 0, 1)
    found = ramp(rounds, stiffness)
    assert len(found) == rounds
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@given(st.integers(1, 50), st.floats(0.1, 20))
def test_ramp_starts_at_the_head_and_never_rises(rounds: int, stiffness: float) -> None:
    found = ramp(rounds, stiffness)
    assert found[0] == 1
    assert all(a >= b for a, b in pairwise(found))
    assert all(0 <= share <= 1 for share in found)


def test_ramp_by_hand() -> None:
    assert ramp(4, 1.0) == (1.0, 0.75, 0.5, 0.25)
    assert ramp(4, 2.0) == (1.0, 0.5, 0.0, 0.0)
    assert ramp(5, 5.0) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert ramp(2, 0.5) == (1.0, 0.75)


@pytest.mark.parametrize(("rounds", "stiffness"), [(0, 1.0), (-1, 1.0), (4, 0.0), (4, -2.0)])
def test_ramps_without_a_meaning_are_refused(rounds: int, stiffness: float) -> None:
    with pytest.raises(PcmError, match=r"(rounds|stiffness)=-?\d") as caught:
        ramp(rounds, stiffness)
    assert "\n" not in str(caught.value)
