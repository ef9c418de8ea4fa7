"""From sections of the command line's config to the controller's objects."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.delay import (
    FixedLatency,
    LatencyModel,
    LognormalLatency,
    MeasuredLatency,
    trace,
)
from pcm_policy.errors import PcmError


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


def rest_command(task: Mapping[str, Any]) -> Callable[[NDArray[Any]], NDArray[np.float32]] | None:
    """Return the map from an observation to the command that keeps the robot where it is.

    Args:
        task: its ``position_dims`` are the dimensions of the observation that hold the robot's
            position in the unit of the actions; without them there is no such map.
    """
    dims = task.get("position_dims")
    if dims is None:
        return None
    index = np.asarray(dims, np.int64)
    return lambda frame: np.asarray(frame, np.float32)[..., index]


def _no_settings() -> None:
    """Raise TypeError if there are any."""


def _natural(steps: Any) -> int:
    if not isinstance(steps, int) or steps < 0:
        raise PcmError(f"latency.steps={steps!r}: use 0, 1, 2, ...")
    return steps


def _time(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value < np.inf:
        raise PcmError(f"{name}={value!r}: use a number of milliseconds, or a factor, from 0 on")
    return float(value)


def _read(path: str) -> Any:
    """Read a JSON list, or the ``latencies_ms`` of an ``eval.json``."""
    try:
        found = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise PcmError(f"latency.path={path} cannot be read as JSON: {error}") from error
    if isinstance(found, dict):
        found = found.get("latencies_ms")
    if not isinstance(found, list) or not all(isinstance(x, int | float) for x in found):
        raise PcmError(f"{path} holds no list of milliseconds and no 'latencies_ms'")
    return found
