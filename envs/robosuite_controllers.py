"""The controllers that a robosuite environment's description names: those of 1.4 and those of 1.5.

robosuite 1.4 has a controller for each robot, ``{"type": "OSC_POSE", "control_delta": true}``. 1.5
composes one of parts, ``{"type": "BASIC", "body_parts": {"right": {"type": "OSC_POSE"}}}``, and
asks ``input_type``, delta or absolute, where 1.4 asked ``control_delta``. robomimic's files for 1.5
still say ``control_delta``, which 1.5's OSC takes and ignores: where a file has no ``input_type``,
it is translated here. In 1.5 a pose is seen from ``input_ref_frame``: world (as in robomimic's
files, and always in 1.4) or base, the robot's own, which is the default.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, Literal

from pcm_policy.errors import PcmError

EnvArgs = dict[str, Any]
Series = Literal["1.4", "1.5"]


def series_of(version: Any) -> Series | None:
    """Return the series of a version such as 1.5.1, None for what is no version.

    What came before 1.4 has its controllers, and what comes after 1.5 is taken for 1.5.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    if numbers is None:
        return None
    return "1.5" if tuple(map(int, numbers.groups())) >= (1, 5) else "1.4"


def described_series(env_args: Mapping[str, Any], where: str) -> Series:
    """Return the series that a description is for: ``env_version``, else what its controllers say.

    Raises:
        PcmError: the two contradict each other; the message begins with ``where``.
    """
    composed = {"body_parts" in controller for controller in _controllers(env_args)}
    found = series_of(env_args.get("env_version"))
    if found is None:
        return "1.5" if True in composed else "1.4"
    if composed and composed != {found == "1.5"}:
        wanted = "BASIC with body_parts" if found == "1.5" else "a type such as OSC_POSE alone"
        raise PcmError(
            f"{where}: env_args has env_version {env_args['env_version']}, whose "
            f"controller_configs are {wanted}: correct the one or the other"
        )
    return found


def controls_deltas(env_args: Mapping[str, Any], where: str) -> bool:
    """Say whether the actions of an environment are deltas rather than absolute poses.

    Raises:
        PcmError: its controllers are not OSC_POSE, or differ; the message begins with ``where``.
    """
    arms = [arm for controller in _controllers(env_args) for arm in _arms(controller)]
    kinds = sorted({str(arm.get("type")) for arm in arms})
    if kinds != ["OSC_POSE"]:
        found = ", ".join(kinds) or str(env_args["env_kwargs"].get("controller_configs"))
        raise PcmError(
            f"{where}: absolute actions need controller OSC_POSE, not {found}: use control='delta'"
        )
    deltas = {_deltas(arm) for arm in arms}
    if len(deltas) > 1:
        raise PcmError(f"{where}: one arm takes deltas and another one absolute poses")
    return deltas.pop()


def adapted(env_args: Mapping[str, Any], control: str, where: str) -> EnvArgs:
    """Return a description with the controllers that ``control`` asks for.

    Args:
        env_args: a description.
        control: absolute, or delta for what the description has.
        where: the beginning of a message.

    Raises:
        PcmError: absolute actions of other controllers than OSC_POSE.
    """
    absolute = control == "absolute"
    if absolute:
        controls_deltas(env_args, where)
    found = deepcopy(dict(env_args))
    for controller in _controllers(found):
        parts = controller.get("body_parts")
        if parts is not None:
            parts |= parts.pop("arms", {})  # a level of robosuite's own files that make() ignores
        for arm in _arms(controller):
            if parts is None and absolute:
                arm["control_delta"] = False
            elif parts is not None and arm.get("type") == "OSC_POSE":
                deltas = not absolute and _deltas(arm)
                arm["input_type"] = "delta" if deltas else "absolute"
    return found


def _controllers(env_args: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the controller of each robot, or the one of all of them."""
    found = env_args["env_kwargs"].get("controller_configs")
    yield from (one for one in (found if isinstance(found, list) else [found]) if _is_dict(one))


def _arms(controller: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the controllers of a robot's arms, themselves."""
    parts = controller.get("body_parts")
    if parts is None:
        return [controller]
    if not _is_dict(parts):
        return []
    named = {**parts, **parts.get("arms", {})}
    return [named[arm] for arm in ("right", "left") if _is_dict(named.get(arm))]


def _deltas(arm: Mapping[str, Any]) -> bool:
    if "input_type" in arm:
        return bool(arm["input_type"] == "delta")
    return bool(arm.get("control_delta", True))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
