"""Values that no setting takes, by the kind of the setting: for properties over all settings."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

NAN, INF = float("nan"), float("inf")
NOT_NUMBERS: tuple[Any, ...] = ("1", "nan", "", None, [], [1.0, 2.0], {}, object(), 1j, True, b"1")

not_a_number = st.sampled_from([NAN, np.float32("nan"), INF, -INF, *NOT_NUMBERS])
"""For a setting that is a finite number."""
not_whole = st.one_of(not_a_number, st.sampled_from([1.5, 2.0, 10**30, np.float64(3)]))
"""For a setting that is a whole number."""
not_a_flag = st.sampled_from(["yes", "no", "true", 0, 1, None, NAN, [], 2])
not_a_word = st.sampled_from(["", "sometimes", None, 1, NAN, [], True])


def not_positive() -> st.SearchStrategy[Any]:
    """For a finite number above 0."""
    return st.one_of(not_a_number, st.floats(max_value=0.0), st.integers(max_value=0))


def not_natural() -> st.SearchStrategy[Any]:
    """For a whole number from 1 on."""
    return st.one_of(not_whole, st.integers(max_value=0))


def not_a_vector(width: int) -> st.SearchStrategy[Any]:
    """For ``width`` numbers that may be infinite: NaN anywhere, other widths and other things."""
    spoiled = st.integers(0, width - 1).map(
        lambda i: [NAN if k == i else 1.0 for k in range(width)]
    )
    other = (
        st.integers(0, 2 * width + 1).filter(lambda n: n not in (width, 1)).map(lambda n: [1.0] * n)
    )
    things = ("1", ["a"] * width, [[1.0] * width], [[1.0], [1.0, 2.0]], {"a": 1}, [None] * width)
    return st.one_of(spoiled, other, st.sampled_from(things))
