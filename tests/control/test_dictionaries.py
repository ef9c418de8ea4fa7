"""Observations that are dictionaries, and robots whose actions are moves."""

from typing import Any

import numpy as np
import pytest

from pcm_policy.control import Controller, ControlSettings, PolicySpec
from pcm_policy.control.config import rest_command, robot_settings
from pcm_policy.errors import PcmError
from tests.control.parts import counting

FIELDS = ("hand[0:1]", "object")


def spec(obs_dim: int = 3, action_dim: int = 1) -> PolicySpec:
    low, high = (0.0,) * obs_dim, (100.0,) * obs_dim
    wide = (-1000.0,) * action_dim, (1000.0,) * action_dim
    return PolicySpec(obs_dim, action_dim, 10, 2, 4, 10.0, low, high, *wide, obs_fields=FIELDS)


def test_entries_are_joined_in_the_policys_order() -> None:
    frame = {"object": np.array([5.0, 6.0]), "hand": np.array([4.0, 9.0]), "clock": np.zeros(7)}
    by_name, by_number = Controller(spec()), Controller(spec())
    by_name.observe(frame)
    by_number.observe(np.array([4.0, 5.0, 6.0]))
    one, other = by_name.request(), by_number.request()
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.obs, other.obs)
    assert one.obs.shape == (2, 3)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ({"hand": [1.0, 2.0]}, "lacks object"),
        ({"hand": [1.0, 2.0], "object": [1.0, np.nan]}, "not finite"),
        ({"hand": [1.0, 2.0], "object": [1.0, 2.0, 3.0]}, r"shape \(4,\)"),
        ({"hand": [1.0, 2.0], "object": ["far", "near"]}, "not an array of real numbers"),
        ({"hand": [1.0, 2.0], "object": [[1.0, 2.0], [3.0, 4.0]]}, "leading axes"),
        ({}, "lacks hand"),
    ],
)
def test_a_bad_dictionary_is_a_bad_observation(frame: dict[str, Any], reason: str) -> None:
    controller = Controller(spec())
    controller.observe(frame)
    assert controller.request() is None
    ((_, kind, why),) = controller.record.events
    assert kind == "bad_observation"
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(why)


def test_a_description_goes_over_the_wire() -> None:
    assert PolicySpec.from_dict(spec().to_dict()) == spec()
    older = {name: value for name, value in spec().to_dict().items() if name != "obs_fields"}
    assert PolicySpec.from_dict(older).obs_fields == ()


def late(settings: ControlSettings, rest: Any) -> list[float]:
    """Return the commands of a robot whose second plan is three ticks late."""
    one = PolicySpec(1, 1, 10, 2, 4, 10.0, (0.0,), (100.0,), (-1000.0,), (1000.0,))
    controller = Controller(one, settings)
    controller.reset(0, rest)
    sent, waiting = [], None
    for tick in range(9):
        controller.observe([1.0])
        waiting = controller.request() or waiting
        if waiting is not None and tick not in (4, 5, 6):
            controller.accept(counting(waiting, 1.0))
            waiting = None
        action = controller.act().action
        sent.append(np.nan if action is None else float(action[0]))
    return sent


def test_a_robot_that_holds_does_not_repeat_its_last_move() -> None:
    assert late(ControlSettings(), None)[3:8] == [4, 4, 4, 4, 5]
    assert late(ControlSettings(hold=(0.0,)), None)[3:8] == [4, 0, 0, 0, 5]
    assert late(ControlSettings(hold=(None,)), None)[3:8] == [4, 4, 4, 4, 5]


def test_settings_of_a_task() -> None:
    task = {"hold": [0.0, None]}
    assert robot_settings({}, task).hold == (0.0, None)
    assert robot_settings({"hold": [1.0, 2.0]}, task).hold == (1.0, 2.0)
    assert robot_settings({"hold": None}, {}).hold is None
    rest = rest_command(task)
    assert rest is not None
    np.testing.assert_array_equal(rest({}), [0.0, 0.0])
    assert rest_command({"position_dims": []}) is None
    placed = rest_command({"position_dims": [2, 0]}, FIELDS)
    assert placed is not None
    np.testing.assert_array_equal(placed({"hand": [4.0, 9.0], "object": [5.0, 6.0]}), [6.0, 4.0])
    with pytest.raises(PcmError, match=r"control\.hold has 2 numbers, an action 1"):
        ControlSettings(hold=(0.0, 0.0)).check(spec())


@pytest.mark.parametrize("hold", [0.0, "still", [None, "a"], [float("nan")], [True]])
def test_hold_is_numbers_and_nulls(hold: Any) -> None:
    with pytest.raises(PcmError, match=r"control\.hold"):
        ControlSettings(hold=hold)


@pytest.mark.parametrize("names", ["object", [1], None])
def test_entries_are_names(names: Any) -> None:
    with pytest.raises(PcmError, match="obs_fields"):
        PolicySpec.from_dict(spec().to_dict() | {"obs_fields": names})
