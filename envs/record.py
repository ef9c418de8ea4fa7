"""One episode, written down: everything that a demonstration file holds of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError

Arrays = dict[str, NDArray[Any]]
Observations = NDArray[Any] | Arrays


@dataclass(frozen=True, eq=False)
class Trajectory:
    """What an episode did; situations have one row before each action and one after the last.

    Attributes:
        seed: of the environment.
        success: whether the environment reported success; None if it never says.
        observations: (steps + 1, Do), or a dict of such arrays.
        states: raw simulator states, ``info["state"]``, (steps + 1, Ds).
        actions: (steps, Da).
        rewards: (steps,).
        recorded: what the environment's ``info["recorded"]`` held after each action: arrays of a
            row an action that a demonstration holds as well, or instead of ``action``.
        attributes: robomimic's about a demonstration: ``model_file``, if the environment has a
            ``model_xml`` of its episode.
    """

    seed: int
    success: bool | None
    observations: Observations
    states: NDArray[np.float64]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    recorded: Arrays = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


def record(
    env: gym.Env[Any, Any], seed: int, act: Callable[[Any], NDArray[np.float32]]
) -> Trajectory:
    """Run an episode to its end.

    Args:
        env: gives ``info["state"]``.
        seed: of the episode.
        act: maps an observation to the environment's action.

    Raises:
        PcmError: The environment does not give ``info["state"]``.
    """
    observation, info = env.reset(seed=seed)
    if "state" not in info:
        raise PcmError("record needs an environment that gives info['state']")
    model = getattr(env.unwrapped, "model_xml", None)
    attributes = {} if model is None else {"model_file": str(model)}
    seen, states = [observation], [info["state"]]
    actions, rewards, over = [], [], False
    success: bool | None = None
    recorded: list[Arrays] = []
    while not over:
        actions.append(np.asarray(act(observation), np.float32))
        observation, reward, terminated, truncated, info = env.step(actions[-1])
        seen.append(observation)
        states.append(info["state"])
        rewards.append(float(reward))
        recorded.append(info.get("recorded", {}))
        success = either(success, reported_success(info))
        over = terminated or truncated
    return Trajectory(
        seed,
        success,
        stack(seen),
        np.array(states),
        np.array(actions),
        np.array(rewards),
        {name: np.stack([row[name] for row in recorded]) for name in recorded[0]},
        attributes,
    )


def reported_success(info: Mapping[str, Any]) -> bool | None:
    """Return what a step's info says of success: ``is_success``, else ``success``, else None.

    The end of an episode is no success: a fall ends one as well.
    """
    found = info.get("is_success", info.get("success"))
    return None if found is None else bool(found)


def either(so_far: bool | None, now: bool | None) -> bool | None:
    """Return whether either is a success; None while nobody has said."""
    return now if so_far is None else so_far or bool(now)


def stack(observations: list[Any]) -> Observations:
    """Stack observations along a new first axis, entry by entry."""
    if isinstance(observations[0], dict):
        keys = observations[0]
        return {key: np.stack([frame[key] for frame in observations]) for key in keys}
    return np.stack(observations)


def demonstration(trajectory: Trajectory, env: gym.Env[Any, Any]) -> Arrays:
    """Return the arrays of a demonstration, one row an action, as converters name them.

    The entries of the observation keep their names, and have ``next_obs.`` before them for what
    followed. An environment whose observation is one array may name what is stored instead by a
    method ``entries(observations, states)``.
    """
    seen: Observations = trajectory.observations
    named = getattr(env.unwrapped, "entries", None)
    if named is not None:
        seen = named(seen, trajectory.states)
    entries = seen if isinstance(seen, dict) else {"obs": seen}
    done = np.zeros(len(trajectory.actions), np.int64)
    done[-1] = 1
    return {
        **{name: values[:-1] for name, values in entries.items()},
        **{f"next_obs.{name}": values[1:] for name, values in entries.items()},
        "action": trajectory.actions,
        **trajectory.recorded,
        "reward": trajectory.rewards,
        "done": done,
        "states": trajectory.states[:-1],
    }
