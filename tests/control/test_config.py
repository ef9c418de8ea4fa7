"""From the command line's sections to latency models: values, files and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.control.config import latency_model
from pcm_policy.control.delay import FixedLatency, TraceLatency
from pcm_policy.errors import PcmError
from tests.bad_values import not_a_number, not_whole

bad = st.one_of(
    st.tuples(st.just("steps"), st.just("steps"), not_whole | st.integers(max_value=-1)),
    st.tuples(st.just("fixed"), st.just("ms"), not_a_number | st.floats(max_value=-1e-9)),
    st.tuples(st.just("measured"), st.sampled_from(["factor", "extra_ms"]), not_a_number),
)


@given(bad)
def test_no_bad_latency(case: tuple[str, str, Any]) -> None:
    kind, name, value = case
    with pytest.raises(PcmError, match=name):
        latency_model({"kind": kind, name: value}, 100.0)


def test_good_ones() -> None:
    assert latency_model({"kind": "steps", "steps": 3}, 100.0) == FixedLatency(300.0)
    assert latency_model({"kind": "none"}, 100.0) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", "[-1]", '["a"]', "{}", "[NaN]", "5"])
def test_traces_that_are_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trace.json"
    file.write_text(text)
    with pytest.raises(PcmError):
        latency_model({"kind": "trace", "path": str(file)}, 100.0)
    file.write_text("[1, 2.5]")
    found = latency_model({"kind": "trace", "path": str(file)}, 100.0)
    assert found == TraceLatency((1.0, 2.5))
