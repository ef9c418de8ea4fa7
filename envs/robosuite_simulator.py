"""What robosuite 1.4 and 1.5 do differently once an environment runs, and robomimic's around it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.robosuite_controllers import EnvArgs
from pcm_policy.envs.rotations import CONTROL_DIM, matrix_to_axis_angle, to_learned
from pcm_policy.envs.seeds import word
from pcm_policy.envs.simulators import EGL, import_robomimic
from pcm_policy.errors import PcmError

Observation = dict[str, NDArray[Any]]


@contextmanager
def drawing(seed: int, env: Any = None) -> Iterator[None]:
    """Seed what robosuite draws from, and leave the global generators as they were.

    Args:
        seed: any number from 0.
        env: robosuite's environment; from 1.5.2 on it has a generator of its own.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(word(seed))
    random.seed(seed)
    own = getattr(env, "rng", None)
    if own is not None:  # it is shared with the samplers, so that it is put into the state
        own.bit_generator.state = np.random.default_rng(seed).bit_generator.state
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def arm_controllers(env: Any) -> list[Any]:
    """Return the controller of each robot's arm, None for a robot of several."""
    found = []
    for robot in env.robots:
        parts = getattr(robot, "part_controllers", None)  # of 1.5
        if parts is None:
            found.append(None if isinstance(robot.controller, dict) else robot.controller)
        else:
            found.append(parts[robot.arms[0]] if len(robot.arms) == 1 else None)
    return found


def goals(env: Any, action: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return what the arms' OSC controllers aim at as one absolute action, (10 * arms,)."""
    arms = arm_controllers(env)
    parts = []
    for arm, grip in zip(arms, action.reshape(len(arms), -1)[:, CONTROL_DIM - 1 :], strict=True):
        parts += [arm.goal_pos, matrix_to_axis_angle(arm.goal_ori), grip]
    return to_learned(np.concatenate(parts)).astype(np.float32)


def look_at_objects(env: Any) -> None:
    """Sample the objects, so that the next observation shows them as they are.

    robosuite 1.5 computes an object's pose as the hand sees it before it looks at the object, from
    where the object was at the last observation: zeros after a reset, and one step late from then
    on. robomimic gives and records that, so that only the first observation is mended here.
    """
    for observable in env._observables.values():
        if observable.modality == "object":
            observable.update(env.model_timestep, env._obs_cache, force=True)


def make_simulator(env_args: EnvArgs, cameras: tuple[str, ...], size: int, render: bool) -> Any:
    """Make robomimic's environment, whose ``env`` is robosuite's.

    Args:
        env_args: a description for the robosuite that is installed.
        cameras: names.
        size: their height and width in pixels.
        render: whether a film can be drawn.

    Raises:
        PcmError: a package is missing, or robosuite cannot make it; the message has its reason.
    """
    base = import_robomimic("robomimic.envs.env_robosuite").EnvRobosuite

    class Simulator(base):  # type: ignore[misc, valid-type]
        """Observations of the present state, without robomimic's global table of modalities."""

        draws = True

        def get_observation(self, di: Any = None) -> Observation:
            black = {}
            for name, observable in self.env._observables.items():
                if observable.modality == "image":
                    observable._enabled = self.draws
                    black[name] = np.zeros((size, size, 3), np.uint8)
            # robosuite samples when its own clock says so, which after reset_to is not the last
            # instant of a step: that clock is stopped, and everything sampled here.
            for observable in self.env._observables.values():
                observable._sampled, observable._time_since_last_sample = True, -np.inf
            found = dict(self.env._get_observations(force_update=True))
            kept = {k: v for k, v in found.items() if k.startswith("robot")}
            pictures = {k: v[::-1].copy() for k, v in found.items() if k.endswith("_image")}
            if not self.draws:
                pictures = black
            return {"object": found["object-state"], **kept, **pictures}

    kwargs = deepcopy(env_args["env_kwargs"])
    for name in ("has_renderer", "has_offscreen_renderer", "ignore_done", "use_object_obs"):
        kwargs.pop(name, None)
    if cameras:
        kwargs |= {"camera_names": list(cameras), "camera_heights": size, "camera_widths": size}
    try:
        with drawing(0):
            return Simulator(
                env_args["env_name"],
                render_offscreen=render,
                use_image_obs=bool(cameras),
                **kwargs,
            )
    except PcmError:
        raise
    except Exception as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        hint = f": drawing needs EGL, {EGL}, or MUJOCO_GL=osmesa" if cameras or render else ""
        raise PcmError(f"robosuite cannot make {env_args['env_name']} ({what}){hint}") from error
