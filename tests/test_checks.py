"""The checks themselves: what passes is in range, whatever is given; names and values are said."""

import math
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.checks import flag, number, numbers, one_of, vector, whole
from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.errors import PcmError, printable, printable_lines
from tests.bad_values import NAN, not_a_flag, not_a_number, not_a_word, not_whole

anything = st.one_of(
    st.floats(), st.integers(), st.text(max_size=5), st.none(), st.booleans(), st.lists(st.floats())
)


@given(anything, st.floats(-10, 10), st.floats(0, 10))
def test_a_number_that_passes_is_in_the_range(value: Any, least: float, width: float) -> None:
    with suppress(PcmError):
        found = number("x", value, least, least + width)
        assert math.isfinite(found)
        assert least <= found <= least + width


@given(not_a_number)
def test_no_number_passes(value: Any) -> None:
    with pytest.raises(PcmError, match=r"^a.b=.*use a finite number"):
        number("a.b", value)


@given(not_whole)
def test_no_whole_number_passes(value: Any) -> None:
    with pytest.raises(PcmError, match=r"^n=.*use a whole number from 0"):
        whole("n", value)


@given(not_a_flag)
def test_no_flag_passes(value: Any) -> None:
    with pytest.raises(PcmError, match=r"^f=.*true or false"):
        flag("f", value)


@given(not_a_word)
def test_no_other_word_passes(value: Any) -> None:
    with pytest.raises(PcmError, match=r"^w=.*use one of on, off"):
        one_of("w", value, ("on", "off"))


def test_numbers_of_numpy_pass() -> None:
    assert number("x", np.float32(0.5), above=0, below=1) == 0.5
    assert whole("n", np.int64(3)) == 3
    assert flag("f", np.bool_(True)) is True
    assert number("x", math.inf, finite=False) == math.inf
    with pytest.raises(PcmError, match="above 0"):
        number("x", 0.0, above=0)
    with pytest.raises(PcmError, match="below 1"):
        number("x", 1.0, below=1)


@pytest.mark.parametrize(
    "value", ["1", ["a", 1], [[1.0], [1.0, 2.0]], [None], {"a": 1}, 1j, [10**400], b"12"]
)
def test_arrays_are_of_numbers(value: Any) -> None:
    for check in (numbers, vector):
        with pytest.raises(PcmError, match=r"^v.*number"):
            check("v", value)


def test_vectors_hold_no_nan() -> None:
    assert vector("v", [1, math.inf], finite=False).tolist() == [1.0, math.inf]
    for value in ([NAN, 1.0], NAN, [], [[1.0]], [True]):
        with pytest.raises(PcmError, match=r"^v="):
            vector("v", value, finite=False)
    with pytest.raises(PcmError, match="finite numbers"):
        vector("v", [math.inf])


@given(st.text())
def test_every_message_is_one_printable_line(text: str) -> None:
    shown = str(PcmError(text))
    assert shown.isprintable()
    assert shown == printable(text)
    if text.isprintable():
        assert shown == text


def test_a_damaged_store_s_names_are_printable() -> None:
    error = ReplayError(Path("a\x1b[2J"), "data/\x07", "no\nnumbers", "repair it")
    assert str(error) == "a\\x1b[2J: data/\\x07: no numbers; repair it"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_control_codes_are_shown_and_letters_stay() -> None:
    assert printable("\x1b]0;title\x07 \u202e a\nb") == "\\x1b]0;title\\x07 \\u202e a\\nb"
    assert printable("José 実験 run(1)") == "José 実験 run(1)"


@given(st.text())
def test_what_a_command_prints_keeps_its_lines_and_nothing_else(text: str) -> None:
    shown = printable_lines(text)
    assert len(shown.split("\n")) == len(text.split("\n"))
    assert all(line.isprintable() for line in shown.split("\n"))
