"""Delay estimates and latency models."""

import json
from pathlib import Path

import numpy as np
import pytest

from pcm_policy.control.config import latency_model, rest_command
from pcm_policy.control.delay import DelayEstimator, LognormalLatency, to_steps
from pcm_policy.errors import PcmError


def test_steps() -> None:
    found = [to_steps(ms, 100.0) for ms in (0.0, 1.0, 99.9, 100.0, 100.1, 700.0)]
    assert found == [0, 1, 1, 1, 2, 7]


def test_estimate_is_the_p95_without_the_first_call() -> None:
    delay = DelayEstimator(10.0, initial_steps=3, window=20)
    assert delay.steps == 3
    delay.record(5000.0)  # warm-up
    assert delay.steps == 3
    for _ in range(19):
        delay.record(12.0)
    delay.record(45.0)
    assert delay.latency_ms == pytest.approx(np.percentile([12.0] * 19 + [45.0], 95))
    assert delay.steps == 2
    for _ in range(20):
        delay.record(31.0)
    assert delay.steps == 4  # the window has forgotten the past


def test_lognormal_has_its_percentiles_and_repeats() -> None:
    model = LognormalLatency(50.0, 100.0)
    drawn = np.array([model.latency_ms(s, t, 0.0) for s in range(40) for t in range(50)])
    again = np.array([model.latency_ms(s, t, 0.0) for s in range(40) for t in range(50)])
    np.testing.assert_array_equal(drawn, again)
    assert np.median(drawn) == pytest.approx(50, rel=0.05)
    assert np.percentile(drawn, 95) == pytest.approx(100, rel=0.1)


def test_models_from_config(tmp_path: Path) -> None:
    assert latency_model({"kind": "none"}, 100.0) is None
    steps = latency_model({"kind": "steps", "steps": 3}, 40.0)
    assert steps is not None
    assert steps.latency_ms(1, 2, 9.0) == 120.0
    measured = latency_model({"kind": "measured", "factor": 2, "extra_ms": 1}, 40.0)
    assert measured is not None
    assert measured.latency_ms(1, 2, 9.0) == 19.0
    file = tmp_path / "eval.json"
    file.write_text(json.dumps({"latencies_ms": [1, 2, 3]}))
    trace = latency_model({"kind": "trace", "path": str(file)}, 40.0)
    assert trace is not None
    assert [trace.latency_ms(0, t, 0.0) for t in range(4)] == [1, 2, 3, 1]


@pytest.mark.parametrize(
    "section",
    [
        {"kind": "magic"},
        {"kind": "steps", "steps": -1},
        {"kind": "steps", "stepz": 1},
        {"kind": "fixed", "ms": "long"},
        {"kind": "fixed", "ms": float("nan")},
        {"kind": "lognormal", "median_ms": 5.0, "p95_ms": 2.0},
        {"kind": "trace", "path": "/nowhere.json"},
    ],
)
def test_bad_models(section: dict[str, object]) -> None:
    with pytest.raises(PcmError):
        latency_model(section, 100.0)


def test_empty_trace(tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    for text in ("[]", '["a"]', "{}", "[-1]"):
        file.write_text(text)
        with pytest.raises(PcmError):
            latency_model({"kind": "trace", "path": str(file)}, 100.0)


def test_rest() -> None:
    assert rest_command({}) is None
    rest = rest_command({"position_dims": [2, 0]})
    assert rest is not None
    np.testing.assert_array_equal(rest(np.array([1.0, 2.0, 3.0])), [3, 1])
