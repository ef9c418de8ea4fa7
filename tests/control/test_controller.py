"""The controller alone: alignment, misses, every fallback, and nothing bad in a command."""

import logging
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.control import Command, Controller, ControlSettings, Plan, PlanRequest, PolicySpec
from pcm_policy.control.plan import ActiveChunk, blend
from pcm_policy.errors import PcmError
from tests.control.parts import counting


def drive(
    controller: Controller,
    ticks: int,
    delay: int,
    offset: float = 0.0,
    frames: dict[int, Any] | None = None,
) -> tuple[list[Command], list[PlanRequest]]:
    """Run ticks in which every plan takes ``delay`` of them."""
    commands, requests, due = [], [], -1
    for tick in range(ticks):
        controller.observe((frames or {}).get(tick, [float(tick)]))
        request = controller.request()
        if request is not None:
            requests.append(request)
            due = request.tick + delay
        waiting = controller.waiting
        if waiting is not None and tick >= due:
            controller.accept(counting(waiting, offset * len(requests)), delay * 100.0)
        commands.append(controller.act())
    return commands, requests


def values(commands: list[Command]) -> list[float | None]:
    return [None if c.action is None else float(c.action[0]) for c in commands]


def test_no_latency_executes_ta_of_every_plan(spec: PolicySpec) -> None:
    commands, requests = drive(Controller(spec), 12, 0)
    assert values(commands) == list(range(12))
    assert [r.tick for r in requests] == [0, 4, 8]
    assert [c.tick for c in commands if c.seam] == [0, 4, 8]
    np.testing.assert_array_equal(requests[0].obs, [[0], [0]])  # the first frame is repeated
    np.testing.assert_array_equal(requests[1].obs, [[3], [4]])
    assert [r.executed for r in requests] == [0, 4, 4]
    assert [r.memory for r in requests] == [None, 0, 4]


def test_sync_waits_and_then_starts_from_the_first_action(spec: PolicySpec) -> None:
    controller = Controller(spec)
    commands, requests = drive(controller, 12, 2)
    held = [None, None, 0, 1, 2, 3, 3, 3, 6, 7, 8, 9]  # plan of tick 6 arrives at 8, whole
    assert values(commands) == held
    assert [r.tick for r in requests] == [0, 6]
    assert controller.record.counts["misses"] == 4
    assert controller.record.counts["hold"] == 4


def test_async_is_aligned_in_time(spec: PolicySpec) -> None:
    controller = Controller(spec, ControlSettings(mode="async", delay_steps=2))
    commands, requests = drive(controller, 14, 2, offset=0.25)
    # the first plan starts when it is there; steps, not ticks: two ticks were held
    assert [r.tick for r in requests] == [0, 6, 10]
    assert values(commands)[2:8] == [0.25, 1.25, 2.25, 3.25, 4.25, 5.25]
    assert values(commands)[8:12] == [8.5, 9.5, 10.5, 11.5]  # actions of ticks 6, 7 were dropped
    assert controller.record.counts["misses"] == 0


def test_prefix_is_what_will_be_executed(spec: PolicySpec) -> None:
    chosen = ControlSettings(mode="async", prefix=True, prefix_past=True)
    controller = Controller(spec, chosen)
    commands, requests = drive(controller, 14, 2)
    assert requests[0].prefix.shape == (0, 1)
    second = requests[1]  # estimate: 1 at first; the first latency is warm-up and not counted
    assert (second.past, len(second.prefix)) == (1, 2)
    third = requests[2]
    assert (third.past, len(third.prefix)) == (1, 3)
    executed = list(values(commands)[third.tick - 1 : third.tick + 2])
    np.testing.assert_allclose(third.prefix[:, 0], np.array(executed, np.float32))


@pytest.mark.parametrize(
    ("on_late", "expected"),
    [("continue", [4, 5, 6, 8]), ("hold", [4, 4, 4, 6]), ("slow", [4, 5, 5.5, 7])],
)
def test_late_plan(spec: PolicySpec, on_late: str, expected: list[float]) -> None:
    """Requested at tick 4, due at 5, there at 7: as many actions are dropped as were executed."""
    controller = Controller(spec, ControlSettings(mode="async", delay_steps=1, on_late=on_late))
    for tick in range(8):
        controller.observe([0.0])
        request = controller.request()
        if tick == 0 and request is not None:
            controller.accept(counting(request))
        if tick == 7 and controller.waiting is not None:
            plan = counting(controller.waiting)
            controller.accept(Plan(plan.id, plan.actions + 1))
        command = controller.act()
        if tick == 4:
            assert command.how == "plan"
        if tick in (5, 6):
            assert command.how == on_late
        if tick >= 4:
            assert command.action is not None
            assert float(command.action[0]) == expected[tick - 4]
    assert controller.record.counts["misses"] == 2
    assert controller.record.counts[on_late] == 2


def test_stop_is_for_good(spec: PolicySpec) -> None:
    controller = Controller(spec, ControlSettings(on_late="stop"))
    commands, _ = drive(controller, 3, 1)
    assert [c.how for c in commands] == ["stop", "stop", "stop"]
    controller.reset(1)
    assert drive(controller, 2, 0)[0][0].how == "plan"


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [1e9], [1.0, 2.0], "text", None, [[1.0]]])
def test_bad_frames_never_reach_a_plan(spec: PolicySpec, bad: Any) -> None:
    controller = Controller(spec, ControlSettings(on_observation="hold"))
    commands, requests = drive(controller, 12, 0, frames={3: bad, 4: bad})
    assert all(np.isfinite(r.obs).all() for r in requests)
    assert values(commands)[:5] == [0, 1, 2, 2, 2]
    assert controller.record.counts["bad_observation"] == 2
    assert [c.why for c in commands[3:5]] == ["bad observation"] * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e6])
def test_diverged_solve(spec: PolicySpec, bad: float, caplog: pytest.LogCaptureFixture) -> None:
    controller = Controller(spec, ControlSettings(on_solve="hold"))
    drive(controller, 4, 0)
    for tick in (4, 5):
        controller.observe([1.0])
        request = controller.request()
        assert request is not None  # asked again after the failure
        plan = counting(request)
        plan.actions[5] = bad
        with caplog.at_level(logging.WARNING):
            assert not controller.accept(plan)
        command = controller.act()
        assert (command.how, float(command.action[0])) == ("hold", 3.0), tick
    assert controller.record.counts["failed_solve"] == 2
    assert sum("failed_solve" in m for m in caplog.messages) == 1  # said once, counted always


@pytest.mark.parametrize("on_limit", ["clip", "hold", "stop"])
def test_limits(spec: PolicySpec, on_limit: str) -> None:
    chosen = ControlSettings(on_limit=on_limit, high=(5.5,), max_step=(2.0,))
    controller = Controller(spec, chosen)
    commands, _ = drive(controller, 8, 0)
    expected = {"clip": [5, 5.5, 5.5], "hold": [5, 5, 5], "stop": [5, 5, 5]}[on_limit]
    assert values(commands)[5:] == expected
    assert controller.record.counts["limited"] == (1 if on_limit == "stop" else 2)
    controller = Controller(spec, chosen)
    jump = drive(controller, 3, 0)[0]
    controller.observe([0.0])
    controller._chunk = ActiveChunk(3.0, np.full((9, 1), -50, np.float32))
    command = controller.act()
    wanted = {"clip": 0.0, "hold": 2.0, "stop": 2.0}[on_limit]
    assert float(command.action[0]) == wanted
    assert float(jump[-1].action[0]) == 2.0


def test_stale_and_foreign_plans_are_dropped(spec: PolicySpec) -> None:
    controller = Controller(spec, ControlSettings(stale_steps=3))
    controller.observe([0.0])
    request = controller.request()
    assert request is not None
    assert not controller.accept(Plan(99, counting(request).actions))
    for _ in range(4):
        controller.act()
        controller.observe([0.0])
    assert not controller.accept(counting(request))
    assert controller.act().action is None
    assert controller.record.counts["stale_plan"] == 2
    assert not controller.accept(counting(request))


def test_a_plan_may_be_as_old_as_said_and_no_older(spec: PolicySpec) -> None:
    for age in (3, 4):
        controller = Controller(spec, ControlSettings(stale_steps=3))
        controller.observe([0.0])
        request = controller.request()
        assert request is not None
        for _ in range(age):
            controller.act()
            controller.observe([0.0])
        assert controller.accept(counting(request)) == (age <= 3)


@pytest.mark.parametrize(("value", "kept"), [(0.0, True), (200.0, True), (201.0, False)])
def test_observations_may_lie_one_training_range_outside(
    spec: PolicySpec, value: float, kept: bool
) -> None:
    assert (spec.obs_low, spec.obs_high, spec.max_excess) == ((0.0,), (100.0,), 1.0)
    controller = Controller(spec)
    controller.observe([value])
    assert (controller.request() is not None) == kept


def test_rest_is_held_until_the_first_plan(spec: PolicySpec) -> None:
    controller = Controller(spec, ControlSettings(high=(7.0,)))
    controller.reset(0, rest=np.array([9.0]))
    assert values(drive(controller, 3, 2)[0]) == [7, 7, 0]


def test_blend() -> None:
    old = ActiveChunk(0.0, np.zeros((6, 1), np.float32))
    new = ActiveChunk(2.0, np.full((6, 1), 8, np.float32))
    mixed = blend(old, new, 4.0, 3)
    np.testing.assert_allclose(mixed.actions[:, 0], [8, 8, 2, 4, 8, 8])  # the old one ends at 6
    assert blend(old, new, 7.0, 3) is new
    np.testing.assert_array_equal(blend(old, new, 4.0, 0).actions, new.actions)


def test_settings_say_what_is_wrong(spec: PolicySpec) -> None:
    for values_ in (
        {"mode": "both"},
        {"prefix": True},
        {"on_late": "clip"},
        {"slow_factor": 1.0},
        {"replan_steps": 0},
        {"control_hz": -1.0},
        {"typo": 1},
    ):
        with pytest.raises(PcmError, match="control"):
            ControlSettings.from_dict(values_)
    with pytest.raises(PcmError, match="usable"):
        Controller(spec, ControlSettings(replan_steps=10))
    with pytest.raises(PcmError, match="low"):
        Controller(spec, ControlSettings(low=(0.0, 0.0)))
    assert PolicySpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(PcmError, match="obs_low has shape"):
        PolicySpec.from_dict(spec.to_dict() | {"obs_low": [0.0, 0.0]})


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 50.0, np.nan, 1e9, None]),
            st.sampled_from(["none", "good", "nan", "huge", "jumpy", "short", "reject"]),
        ),
        min_size=5,
        max_size=40,
    ),
    st.sampled_from(["sync", "async"]),
    st.sampled_from(["continue", "hold", "slow", "stop"]),
    st.sampled_from(["clip", "hold", "stop"]),
)
def test_whatever_happens_every_command_is_safe(
    story: list[tuple[Any, str]], mode: str, fallback: str, on_limit: str
) -> None:
    spec = PolicySpec(1, 1, 10, 2, 4, 10.0, (0.0,), (100.0,), (-1000.0,), (1000.0,))
    chosen = ControlSettings(
        mode=mode,
        on_late=fallback,
        on_observation=fallback,
        on_solve=fallback,
        on_limit=on_limit,
        low=(-10.0,),
        high=(20.0,),
        max_step=(1.5,),
        prefix=mode == "async",
        blend_steps=2,
    )
    controller = Controller(spec, chosen)
    last: float | None = None
    for frame, event in story:
        controller.observe([frame])
        controller.request()
        waiting = controller.waiting
        if waiting is not None:
            assert np.isfinite(waiting.obs).all()
            assert np.isfinite(waiting.prefix).all()
            plan = counting(waiting)
            if event == "nan":
                plan.actions[3] = np.nan
            elif event == "huge":
                plan.actions[3] = 1e7
            elif event == "jumpy":
                plan.actions[::2] = 900
            if event == "short":
                plan = Plan(plan.id, plan.actions[:3])
            if event == "reject":
                controller.reject(waiting.id, "because")
            elif event != "none":
                controller.accept(plan, 50.0)
        command = controller.act()
        if command.action is None:
            assert last is None
            continue
        value = float(command.action[0])
        assert np.isfinite(value)
        assert -10 <= value <= 20
        assert last is None or abs(value - last) <= 1.5 * 1.00001
        last = value
