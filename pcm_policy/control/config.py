"""From sections of the command line's config to the controller's objects."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import MOST_STEPS
from pcm_policy.control.delay import (
    FixedLatency,
    LatencyModel,
    LognormalLatency,
    MeasuredLatency,
    trace,
)
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.fields import join_fields
from pcm_policy.files import read_json


def latency_model(section: Mapping[str, Any], period_ms: float) -> LatencyModel | None:
    """Build the latency of a simulation; None where no time passes.

    Args:
        section: ``kind`` and its own settings, see ``configs/latency``.
        period_ms: duration of a control step.

    Raises:
        PcmError: an unknown kind or setting, or a value out of range.
    """
    values = dict(section)
    kind = values.pop("kind", None)
    try:
        if kind == "none":
            _no_settings(**values)
            return None
        if kind == "steps":
            return FixedLatency(_natural(**values) * period_ms)
        if kind == "trace":
            return trace(_read(**values))
        models: dict[str, Callable[..., LatencyModel]] = {
            "fixed": FixedLatency,
            "lognormal": LognormalLatency,
            "measured": MeasuredLatency,
        }
        if kind in models:
            return models[kind](**{k: _time(f"latency.{k}", v) for k, v in values.items()})
    except TypeError as error:
        raise PcmError(f"latency={kind}: {error}") from error
    raise PcmError(f"latency.kind={kind!r}: see configs/latency for the kinds")


Rest = Callable[[Any], NDArray[np.float32]]
"""From the first observation of an episode to the command that keeps the robot where it is."""


def robot_settings(section: Mapping[str, Any], task: Mapping[str, Any]) -> ControlSettings:
    """Build a controller's settings for a task's robot, whose ``hold`` stands where none is given.

    Raises:
        PcmError: an unknown setting, or a bad value.
    """
    settings = ControlSettings.from_dict(section)
    if settings.hold is None and task.get("hold") is not None:
        return replace(settings, hold=tuple(task["hold"]))
    return settings


def rest_command(task: Mapping[str, Any], fields: Sequence[str] = ()) -> Rest | None:
    """Return what a robot is sent before its first plan; None where the task does not say.

    Args:
        task: its ``position_dims`` are the dimensions of the observation that hold the robot's
            position in the unit of the actions; or its ``hold`` is the command of a robot that
            stands still, with null (zero here) where it would repeat the last one.
        fields: entries of an observation that is a dictionary, in order.
    """
    dims, hold = task.get("position_dims"), task.get("hold")
    if dims:
        index = np.asarray(dims, np.int64)

        def position(observation: Any) -> NDArray[np.float32]:
            given = isinstance(observation, Mapping)
            frame = join_fields(observation, fields) if given else observation
            return np.asarray(frame, np.float32)[..., index]

        return position
    if hold is not None:
        still = np.array([value or 0.0 for value in hold], np.float32)
        return lambda _: still
    return None


def _no_settings() -> None:
    """Raise TypeError if there are any."""


def _natural(steps: Any) -> int:
    if not isinstance(steps, int) or isinstance(steps, bool) or not 0 <= steps <= MOST_STEPS:
        raise PcmError(f"latency.steps={steps!r}: use 0, 1, 2, ...")
    return steps


def _time(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < np.inf:
        raise PcmError(f"{name}={value!r}: use a number of milliseconds, or a factor, from 0 on")
    return float(value)


def _read(path: str) -> Any:
    """Read a JSON list, or the ``latencies_ms`` of an ``eval.json``."""
    try:
        found = read_json(Path(path))
    except PcmError as error:
        raise PcmError(f"latency.path={path} cannot be read as JSON: {error}") from error
    if isinstance(found, dict):
        found = found.get("latencies_ms")
    if not isinstance(found, list) or not all(isinstance(x, int | float) for x in found):
        raise PcmError(f"{path} holds no list of milliseconds and no 'latencies_ms'")
    return found
