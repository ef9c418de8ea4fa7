"""Vector environments: per-episode resets, chunks, and no process left behind."""

import multiprocessing
from contextlib import closing
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest

from pcm_policy.envs.vector import UNKNOWN, ActionChunks, Frames, make_env, make_vector
from pcm_policy.errors import PcmError

ENV = "pcm_policy/PushTKeypoints-v0"


class Counter(gym.Env[Any, Any]):
    """Observes its step count; every reward but the second is 0; ends after four steps."""

    observation_space = gym.spaces.Box(0, 100, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        observation = np.array([self.count], np.float32)
        return observation, float(self.count == 2), self.count == 4, False, {}


def test_chunk_runs_until_the_episode_ends() -> None:
    env = ActionChunks(Counter())
    env.reset()
    observation, reward, terminated, _, info = env.step(np.zeros((3, 1)))
    assert (observation[0], reward, terminated) == (3, 1, False)
    assert info == {"steps": 3, "success": UNKNOWN, "finite": True}
    observation, reward, terminated, _, info = env.step(np.zeros((3, 1)))
    assert (observation[0], reward, terminated) == (4, 0, True)
    assert info == {"steps": 1, "success": UNKNOWN, "finite": True}  # an end is no success


def test_nan_rows_are_no_action() -> None:
    env = ActionChunks(Counter())
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.full((3, 1), np.nan))
    assert (observation[0], reward, terminated, truncated) == (0, -np.inf, False, False)
    assert info["steps"] == 0


def test_chunk_before_reset_is_refused() -> None:
    with pytest.raises(PcmError, match="reset"):
        ActionChunks(Counter()).step(np.zeros((3, 1)))


def rollout(mode: Literal["sync", "async"]) -> list[np.ndarray[Any, Any]]:
    with closing(make_vector(ENV, 3, mode)) as envs:
        seen = [envs.reset(seed=[7, 8, 9])[0]]
        actions = np.array([[100, 100], [256, 300], [400, 200]], np.float32)
        for _ in range(10):
            seen.append(envs.step(actions)[0])
        mask = np.array([False, True, False])
        seen.append(envs.reset(seed=[0, 7, 0], options={"reset_mask": mask})[0])
    return seen


def test_async_is_sync_bitwise_and_leaves_no_process() -> None:
    sync = rollout("sync")
    np.testing.assert_array_equal(sync, rollout("async"))
    assert multiprocessing.active_children() == []
    np.testing.assert_array_equal(sync[-1][1], sync[0][0])  # seed 7 again
    np.testing.assert_array_equal(sync[-1][0], sync[-2][0])  # untouched by the mask


@pytest.mark.parametrize(
    ("env_id", "num_envs", "mode", "message"),
    [
        ("pcm_policy/Nothing-v0", 1, "sync", "no environment"),
        ("no_such_module:pcm_policy/PushTImage-v0", 1, "sync", "no environment"),
        (ENV, 0, "sync", "num_envs"),
        (ENV, 1, "threads", "mode"),
    ],
)
def test_bad_arguments_are_refused(env_id: str, num_envs: int, mode: Any, message: str) -> None:
    with pytest.raises(PcmError, match=message):
        make_vector(env_id, num_envs, mode)


class Camera(Counter):
    """Remembers which observations were looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.draws, self.drawn = True, list[bool]()

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        self.drawn = [self.draws]
        return super().reset()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.drawn.append(self.draws)
        return super().step(action)


@pytest.mark.parametrize(
    ("seen", "drawn"),
    [(1, [True, False, True, True]), (2, [True, True, True, True]), (None, [True] * 4)],
)
def test_cameras_are_drawn_for_frames_that_are_looked_at(seen: int, drawn: list[bool]) -> None:
    camera = Camera()
    env = ActionChunks(camera, seen)
    env.reset()
    env.step(np.array([[0.0], [np.nan], [0.0]]))
    env.step(np.zeros((1, 1)))
    assert camera.drawn == drawn
    env.step(np.full((2, 1), np.nan))
    env.reset()
    assert camera.drawn == [True]


def test_a_policy_sees_the_same_images_where_the_others_are_left_out() -> None:
    draw = np.random.default_rng(0)
    chunks = [draw.uniform(100, 400, (n, 2)).astype(np.float32) for n in (5, 1, 2, 4)]

    def images(seen: int | None) -> list[Any]:
        env = ActionChunks(Frames(make_env("pcm_policy/PushTImage-v0"), 2), seen)
        with closing(env):
            found = [env.reset(seed=3)[0]]
            return [*found, *(env.step(chunk)[0] for chunk in chunks)]

    for mine, all_drawn in zip(images(2), images(None), strict=True):
        np.testing.assert_equal(mine, all_drawn)
    assert images(1)[1]["image"][0].max() == 0  # what nobody looks at is black
