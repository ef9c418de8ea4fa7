"""robosuite's tasks through robomimic's ``EnvRobosuite``, as environments that a seed determines.

A task's name means the one of the robosuite that is installed, 1.4 or 1.5; a data set that was
recorded with the other one is refused.

Lengths are metres, angles radians; one step is 0.05 s (the rate stands in ``env_args``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.rendering import checked_render_mode
from pcm_policy.envs.robosuite_controllers import (
    EnvArgs,
    adapted,
    controls_deltas,
    described_series,
)
from pcm_policy.envs.robosuite_simulator import (
    Observation,
    arm_controllers,
    drawing,
    goals,
    look_at_objects,
    make_simulator,
)
from pcm_policy.envs.robosuite_tasks import check_env_args, find_task, read_env_args
from pcm_policy.envs.rotations import CONTROL_DIM, LEARNED_DIM, to_control
from pcm_policy.envs.simulators import check_robosuite, installed_robosuite, installed_series
from pcm_policy.errors import PcmError

RENDER_SIZE = 512  # pixels of a film


class Robosuite(gym.Env[Observation, NDArray[np.float32]]):
    """A robosuite task, low-dimensional and with cameras if asked for.

    Observation space: dict of the ``keys``, float32; for robomimic's usual ones ``object`` (what
    stands in it depends on the task), ``robot0_eef_pos`` (3,), ``robot0_eef_quat`` (4,), order x,
    y, z, w, ``robot0_gripper_qpos`` (2,), the same of ``robot1``; and ``NAME_image`` (size, size,
    3) uint8 of each camera. Which of them a policy sees, in which order, its ``obs_fields`` say.

    Action space, for each arm: with control="absolute" (10,), the pose that the controller moves
    to, position and 6-D rotation (:mod:`pcm_policy.envs.rotations`), and the gripper, 1 to close.
    With control="delta" whatever the data set's controller takes, for OSC_POSE (7,) in [-1, 1].

    Rewards: 1 on success, else 0, so that the score, the best reward, is the success.

    Starting state: ``reset(seed=s)`` gives an episode that is a function of s alone.
    ``reset(options={"state": info["state"], "model": env.model_xml})`` gives a recorded one;
    actions that were recorded from the first state of an episode repeat it exactly. Without the
    model the present one stays and the repeat is not exact.

    Episode end: ``terminated`` on success; the number of steps is limited by the registration.

    Info: ``state``, time, positions and velocities of MuJoCo; ``is_success``; and after a step
    ``recorded``, what a demonstration holds of it: with an OSC_POSE controller ``absolute_action``
    (10 * arms,), and the ``action`` that robosuite took where that is another one than was given.

    Attributes:
        draws: whether cameras are drawn; their images are black where not.

    Args:
        task: Lift, Can, Square, ToolHang or Transport; or
        dataset: a robomimic HDF5 file, whose ``env_args`` are taken; or
        env_args: those, as a dictionary.
        control: absolute or delta.
        keys: entries of the observation; None for robomimic's usual ones.
        cameras: names of cameras, such as agentview and robot0_eye_in_hand.
        camera_size: their height and width in pixels.
        render_mode: None or "rgb_array".

    Raises:
        PcmError: robomimic's packages are not installed, an argument is wrong, an absolute action
            asked of another controller than OSC_POSE, or cameras where nothing can be drawn.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (gymnasium's)

    def __init__(
        self,
        task: str | None = None,
        *,
        dataset: str | Path | None = None,
        env_args: Mapping[str, Any] | None = None,
        control: Literal["absolute", "delta"] = "absolute",
        keys: Sequence[str] | None = None,
        cameras: Sequence[str] = (),
        camera_size: int = 84,
        render_mode: str | None = None,
    ) -> None:
        self.render_mode = checked_render_mode(render_mode)
        if control not in ("absolute", "delta"):
            raise PcmError(f"control is 'absolute' or 'delta', not {control!r}")
        found, soft, where = _description(task, dataset, env_args)
        check_robosuite(described_series(found, where), where)
        self.env_args = adapted(found, control, where)
        self._control, self._cameras = control, tuple(cameras)
        drawn = render_mode is not None
        self._sim = make_simulator(self.env_args, self._cameras, camera_size, drawn)
        self._sim.env.hard_reset = not soft
        self._soft = soft
        self._model: str | None = None
        self.arms = len(self._sim.env.robots)
        found_arms = arm_controllers(self._sim.env)
        self._osc = all(arm is not None and arm.name == "OSC_POSE" for arm in found_arms)
        if keys is None:
            parts = ("eef_pos", "eef_quat", "gripper_qpos")
            keys = ["object", *(f"robot{i}_{part}" for i in range(self.arms) for part in parts)]
        self._keys = (*keys, *(f"{camera}_image" for camera in self._cameras))
        self.observation_space: Any = gym.spaces.Dict(
            {key: _space(value) for key, value in self._observe().items()}
        )
        low, high = self._sim.env.action_spec
        self.action_space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))
        if control == "absolute":
            self.action_space = gym.spaces.Box(-np.inf, np.inf, (LEARNED_DIM * self.arms,))

    @property
    def model_xml(self) -> str:
        """The episode's model, for ``reset`` and for ``model_file`` in robomimic's data sets."""
        if self._model is not None:
            return self._model
        # sim.model.get_xml() would give the model that any environment of this process loaded last
        task, model = self._sim.env.model, self._sim.env.sim.model
        root = ElementTree.fromstring(task.get_xml())
        for body in root.iter("body"):  # robosuite moves what only shows the goal after compiling
            if "visual" in body.get("name", "").lower():
                index = model.body_name2id(body.get("name"))
                body.set("pos", " ".join(map(repr, model.body_pos[index].tolist())))
                body.set("quat", " ".join(map(repr, model.body_quat[index].tolist())))
        return ElementTree.tostring(root, encoding="unicode")

    @property
    def draws(self) -> bool:
        """Whether cameras are drawn."""
        return bool(self._sim.draws)

    @draws.setter
    def draws(self, wanted: bool) -> None:
        self._sim.draws = wanted

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see the class for ``options``.

        Raises:
            PcmError: ``options["state"]`` is no state of this task's model.
        """
        super().reset(seed=seed)
        draw = int(self.np_random.integers(2**31)) if seed is None else seed
        inner = self._sim.env
        options = options or {}
        if "state" in options:
            with drawing(draw, inner):
                self._go_to(options["state"], options.get("model"))
        else:
            # a foreign model is not kept by a soft reset, nor is what an episode left in the data
            inner.hard_reset = not self._soft or self._model is not None
            self._model = None
            with drawing(draw, inner):
                inner.reset()
            inner.hard_reset = not self._soft
            self._start_at(inner.sim.get_state().flatten())
        return self._observe(), self._info()

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Move for one control period."""
        values = np.asarray(action, np.float64)
        if values.shape != self.action_space.shape:
            raise PcmError(f"an action is {self.action_space.shape}, not {values.shape}")
        recorded: Observation = {}
        if self._control == "absolute":
            recorded["absolute_action"] = values.astype(np.float32)
            recorded["action"] = values = to_control(values)
        self._sim.env.step(values)
        if self._control == "delta" and self._osc:
            recorded["absolute_action"] = goals(self._sim.env, values)
        info = self._info() | {"recorded": recorded}
        success = info["is_success"]
        return self._observe(), float(success), success, False, info

    def absolute_actions(
        self, states: NDArray[np.float64], actions: NDArray[Any], model: str | None = None
    ) -> NDArray[np.float32]:
        """Turn an episode's delta actions into the absolute ones that its controller aimed at.

        Nothing is simulated: each recorded state is set and the controller asked for its goal, so
        that a file that another version of MuJoCo recorded is converted as well.

        Args:
            states: (steps, Ds), as recorded.
            actions: (steps, 7 * arms), delta.
            model: the episode's model, XML.

        Returns:
            (steps, 10 * arms).

        Raises:
            PcmError: these are no delta actions of OSC_POSE, or no states of this model.
        """
        if self._control != "delta" or not controls_deltas(self.env_args, "env_args"):
            raise PcmError("only delta actions of OSC_POSE are converted: use control='delta'")
        if actions.shape != (len(states), CONTROL_DIM * self.arms):
            raise PcmError(f"actions are {actions.shape}, not ({len(states)}, {CONTROL_DIM}*arms)")
        self.reset(seed=0, options={"state": states[0], "model": model})
        sim, arms = self._sim.env.sim, arm_controllers(self._sim.env)
        found = []
        for i, action in enumerate(np.asarray(actions, np.float64)):
            sim.set_state_from_flattened(states[i])
            sim.forward()
            for arm, part in zip(arms, action.reshape(self.arms, -1), strict=True):
                # robosuite's first goal is seen from the posture before the state was set
                arm.new_update = i > 0
                arm.set_goal(part[: CONTROL_DIM - 1])
            found.append(goals(self._sim.env, action))
        return np.stack(found)

    def render(self) -> NDArray[np.uint8] | None:
        """Draw the scene, (512, 512, 3), or nothing without a render mode."""
        if self.render_mode is None:
            return None
        picture: NDArray[np.uint8] = self._sim.env.sim.render(
            height=RENDER_SIZE, width=RENDER_SIZE, camera_name="agentview"
        )
        return picture[::-1].copy()

    def close(self) -> None:
        """Release the simulator, and what it draws with while the display is still open."""
        self._sim.env.close()

    def _observe(self) -> Observation:
        raw = self._sim.get_observation()
        missing = [key for key in self._keys if key not in raw]
        if missing:
            raise PcmError(f"the observation lacks {missing[0]}: it has {', '.join(sorted(raw))}")
        return {
            key: raw[key] if raw[key].dtype == np.uint8 else raw[key].astype(np.float32)
            for key in self._keys
        }

    def _info(self) -> dict[str, Any]:
        state = np.array(self._sim.env.sim.get_state().flatten())
        return {"state": state, "is_success": bool(self._sim.is_success()["task"])}

    def _go_to(self, state: Any, model: str | None) -> None:
        values = np.asarray(state, np.float64)
        inner = self._sim.env
        if model is not None:
            inner.hard_reset = True
            self._sim.reset_to({"model": model})
            inner.hard_reset = not self._soft
            self._model = model
        size = inner.sim.get_state().flatten().size
        if values.shape != (size,) or not np.isfinite(values).all():
            raise PcmError(
                f"options['state'] is {size} finite numbers of this task's info['state'], not an "
                f"array {values.shape}"
            )
        self._start_at(values)

    def _start_at(self, state: NDArray[np.float64]) -> None:
        """Start from a state, as robomimic's ``reset_to`` does once it has loaded the model.

        robosuite's own reset leaves traces that no recorded state holds: the posture that the
        controller prefers is the one that was drawn, and the solver starts from another guess.
        """
        inner = self._sim.env
        inner.deterministic_reset = True
        inner.reset()
        inner.deterministic_reset = False
        inner.sim.reset()
        inner.sim.set_state_from_flattened(state)
        inner.sim.forward()
        look_at_objects(inner)


def _description(
    task: str | None, dataset: str | Path | None, env_args: Mapping[str, Any] | None
) -> tuple[EnvArgs, bool, str]:
    """Return ``env_args``, whether soft resets change nothing, and how messages name them."""
    if dataset is not None:
        return read_env_args(dataset), False, str(dataset)
    if env_args is not None:
        return check_env_args(dict(env_args), "env_args"), False, "env_args"
    if task is None:
        raise PcmError("which task? Give task=Lift (or another), dataset=FILE.hdf5 or env_args")
    known = find_task(task)
    found = known.env_args(installed_series())
    found["env_version"] = installed_robosuite() or found["env_version"]
    return found, known.soft_reset, task


def _space(value: NDArray[Any]) -> gym.spaces.Box:
    if value.dtype == np.uint8:
        return gym.spaces.Box(0, 255, value.shape, np.uint8)
    return gym.spaces.Box(-np.inf, np.inf, value.shape, np.float32)
