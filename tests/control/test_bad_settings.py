"""Everything that a controller is told: NaN, other types, shapes and ranges are refused by name."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.control import Controller, ControlSettings, DelayEstimator, Plan, PolicySpec
from pcm_policy.control.delay import FixedLatency, LognormalLatency, MeasuredLatency
from pcm_policy.control.plan import ActiveChunk
from pcm_policy.control.safety import Gate, chunk_fault, frame_fault
from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits
from tests.bad_values import (
    INF,
    NAN,
    not_a_flag,
    not_a_number,
    not_a_vector,
    not_a_word,
    not_natural,
    not_positive,
    not_whole,
)
from tests.control.parts import counting

SPEC = PolicySpec(2, 2, 10, 2, 4, 10.0, (0.0, 0.0), (1.0, 1.0), (-9.0, -9.0), (9.0, 9.0))
WORDS = ("mode", "warm_start", "on_late", "on_observation", "on_solve", "on_limit")
FLAGS = ("couple_noise", "prefix", "prefix_past", "prefix_input")
LIMITS = ("low", "high", "max_step")


def without_none(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return kind.filter(lambda value: value is not None)


bad_setting = st.one_of(
    st.tuples(st.sampled_from(WORDS), not_a_word),
    st.tuples(st.sampled_from(FLAGS), not_a_flag),
    st.tuples(st.sampled_from(LIMITS), without_none(not_a_vector(2)).filter(lambda v: v != [1.0])),
    st.tuples(
        st.just("hold"),
        not_a_vector(2).filter(lambda v: v != [None] * 2) | st.sampled_from([1.0, [INF, 1.0]]),
    ),
    st.tuples(st.sampled_from(("replan_steps", "stale_steps")), without_none(not_natural())),
    st.tuples(st.just("delay_steps"), without_none(not_whole) | st.integers(max_value=-1)),
    st.tuples(st.just("blend_steps"), not_whole | st.integers(max_value=-1)),
    st.tuples(st.just("control_hz"), without_none(not_positive())),
    st.tuples(st.just("slow_factor"), not_positive() | st.floats(min_value=1.0)),
)


@given(bad_setting)
def test_no_bad_setting_reaches_a_controller(case: tuple[str, Any]) -> None:
    name, value = case
    with pytest.raises(PcmError, match=f"control.*{name}"):
        ControlSettings(**{name: value}).check(SPEC)


bad_spec = st.one_of(
    st.tuples(
        st.sampled_from(("obs_dim", "action_dim", "horizon", "obs_steps", "action_steps")),
        not_natural() | st.integers(min_value=10**7),
    ),
    st.tuples(st.just("control_hz"), not_positive()),
    st.tuples(st.just("max_excess"), not_a_number | st.floats(max_value=-1e-9)),
    st.tuples(
        st.sampled_from(("obs_low", "obs_high", "action_low", "action_high")),
        not_a_vector(2) | st.sampled_from([1.0, None, [1.0]]),
    ),
)


@given(bad_spec)
def test_no_bad_description_of_a_policy(case: tuple[str, Any]) -> None:
    """As a server might send it, see the client's tests."""
    name, value = case
    with pytest.raises(PcmError, match=name):
        PolicySpec.from_dict(SPEC.to_dict() | {name: value})


@pytest.mark.parametrize("kind", ["obs", "action"])
@pytest.mark.parametrize(("low", "high"), [(0.0, INF), (-INF, 0.0), (INF, INF), (2.0, 1.0)])
def test_half_a_range_would_be_no_gate(kind: str, low: float, high: float) -> None:
    changed = {f"{kind}_low": [0.0, low], f"{kind}_high": [1.0, high]}
    with pytest.raises(PcmError, match=f"policy {kind} has no range in dimension 1"):
        PolicySpec.from_dict(SPEC.to_dict() | changed)
    unknown = {f"{kind}_low": [0.0, -INF], f"{kind}_high": [1.0, INF]}
    PolicySpec.from_dict(SPEC.to_dict() | unknown)


def test_odd_descriptions() -> None:
    for values in ({}, {"obs_dim": 1}, SPEC.to_dict() | {"extra": 1}):
        with pytest.raises(PcmError, match="not a policy description"):
            PolicySpec.from_dict(values)
    with pytest.raises(PcmError, match="horizon=4 is shorter"):
        PolicySpec.from_dict(SPEC.to_dict() | {"horizon": 4})


@given(st.sampled_from(LIMITS), not_a_vector(2).filter(lambda value: value != []))
def test_no_bad_limit(name: str, value: Any) -> None:
    with pytest.raises(PcmError, match=name):
        ActionLimits(**{name: value}).check(2)


@pytest.mark.parametrize(
    "options",
    [
        {"low": [0, 300], "high": [200, 200]},
        {"low": 5.0, "high": [9.0, 4.0]},
        {"low": [0.0, 1.0], "max_step": [1.0, 1.0, 1.0]},
        {"low": INF},
        {"high": -INF},
        {"max_step": [1.0, NAN]},
        {"max_step": -INF},
    ],
)
def test_lists_are_compared_as_numbers(options: dict[str, Any]) -> None:
    with pytest.raises(PcmError, match="action limits"):
        ActionLimits(**options)
    with pytest.raises(PcmError, match="control"):
        ControlSettings(**options)


limits = st.sampled_from([None, 0.5, INF, [0.1, 3.0]])
floats = st.floats(width=32)


@given(
    st.tuples(floats, floats),
    st.none() | st.tuples(floats, floats),
    st.sampled_from([None, -1.0, -INF, [-1.0, -INF]]),
    st.sampled_from([None, 1.0, INF, [INF, 1e30]]),
    limits,
    st.sampled_from(["clip", "hold", "stop"]),
)
def test_what_leaves_the_gate_is_finite_and_inside(
    action: Any, before: Any, low: Any, high: Any, step: Any, on_limit: str
) -> None:
    previous = None if before is None else np.array(before, np.float32)
    gate = Gate(ActionLimits(low, high, step), on_limit)
    command, fault = gate.check(np.array(action, np.float32), previous)
    assert command is not None or fault
    if command is not None:
        assert np.isfinite(command).all()
        assert np.all(command >= (-INF if low is None else np.float32(low)))
        assert np.all(command <= (INF if high is None else np.float32(high)))


def test_limits_check_what_they_are_given() -> None:
    rated = ActionLimits(max_step=5.0)
    actions = np.zeros((1, 3, 2), np.float32)
    for previous in (np.array([[NAN, 1.0]]), np.zeros((1, 3)), np.zeros(2), np.array([["a", "b"]])):
        with pytest.raises(PcmError, match="previous"):
            rated.apply(actions, previous)
    with pytest.raises(PcmError, match="not finite"):
        rated.apply(np.full((1, 1, 2), INF, np.float32))
    with pytest.raises(PcmError, match="low has 3 numbers"):
        ActionLimits(low=[0.0] * 3).apply(actions)


@pytest.mark.parametrize(
    "rest", [np.zeros(3), 5.0, np.zeros((1, 2)), [NAN, 0.0], ["a", "b"], [INF, 0.0], [], None]
)
def test_rest_is_a_command(rest: Any) -> None:
    controller = Controller(SPEC)
    if rest is None:
        controller.reset(0, rest)
        controller.observe(np.full(2, np.nan))
        assert controller.act().action is None
        return
    with pytest.raises(PcmError, match=r"^rest"):
        controller.reset(0, rest)
    controller.reset(0, np.array([1.0, 2.0]))
    controller.observe(np.full(2, np.nan))
    assert controller.act().action.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("seed", [-1, 1.5, "1", None, True, 2**70])
def test_seeds_are_whole_numbers(seed: Any) -> None:
    with pytest.raises(PcmError, match=r"^seed="):
        Controller(SPEC, seed=seed)


@pytest.mark.parametrize(
    "frame", ["ab", ["a", "b"], [[1.0], [1.0, 2.0]], [None, 1.0], {"a": 1}, [1j, 0], [1e300, 0.0]]
)
def test_frames_that_are_no_numbers_are_faults(frame: Any) -> None:
    assert frame_fault(frame, SPEC)
    controller = Controller(SPEC)
    controller.reset(0, np.zeros(2))
    controller.observe(frame)
    assert controller.act().how != "plan"


def test_what_a_robot_holds_passes_the_gate() -> None:
    """A hold outside the limits is clipped, or the last command stays."""
    for on_limit, expected in (("clip", [5.0, 2.0]), ("hold", [1.0, 2.0])):
        limited = ControlSettings(hold=(9.0, None), high=5.0, on_limit=on_limit)
        controller = Controller(SPEC, limited)
        controller.reset(0, np.array([1.0, 2.0]))
        controller.observe(np.full(2, NAN))
        command = controller.act()
        assert command.action is not None
        assert command.action.tolist() == expected


def test_plans_that_are_no_numbers_are_faults() -> None:
    for actions in ("text", [[1.0], [1.0, 2.0]], np.full((9, 2), NAN), np.full((9, 2), 1e30)):
        assert chunk_fault(actions, SPEC)
    controller = Controller(SPEC)
    controller.observe(np.zeros(2))
    request = controller.request()
    assert request is not None
    assert not controller.accept(Plan(request.id, "text"))  # type: ignore[arg-type]


def test_a_delay_beyond_the_chunk_is_refused(spec: PolicySpec) -> None:
    with pytest.raises(PcmError, match="delay_steps=10000: a chunk has 9"):
        Controller(spec, ControlSettings(mode="async", delay_steps=10_000))
    with pytest.raises(PcmError, match="delay_steps=1000000000"):
        ControlSettings(delay_steps=10**9)


def test_an_estimate_beyond_the_chunk_costs_nothing(spec: PolicySpec) -> None:
    """A delay of a billion steps asks for no more of the old plan than it has."""
    chunk = ActiveChunk(3.0, np.arange(9, dtype=np.float32)[:, None])
    assert chunk.ahead(5.5, 10**9)[:, 0].tolist() == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.0]
    assert len(chunk.ahead(99.0, 10**9)) == 0
    delay = DelayEstimator(100.0, initial_steps=10**9)
    controller = Controller(spec, ControlSettings(mode="async", prefix=True), delay=delay)
    for tick in range(6):
        controller.observe(np.array([float(tick)]))
        request = controller.request()
        if request is not None:
            controller.accept(counting(request))
        controller.act()
    assert controller.record.counts["plans"] == 2


@given(
    st.sampled_from(
        [
            lambda v: FixedLatency(v),
            lambda v: LognormalLatency(v, 1.0),
            lambda v: LognormalLatency(1.0, v),
            lambda v: MeasuredLatency(factor=v),
            lambda v: MeasuredLatency(extra_ms=v),
            lambda v: DelayEstimator(v),
            lambda v: DelayEstimator(1.0, 1, 0).record(v),
        ]
    ),
    not_a_number | st.floats(max_value=-1e-9),
)
def test_times_are_times(make: Any, value: Any) -> None:
    with pytest.raises(PcmError, match=r"_ms|latency"):
        make(value)
