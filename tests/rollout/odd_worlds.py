"""Environments that go wrong in one way each, in episodes of seed 102; ids ``odd/KIND-v0``.

``tests.rollout.odd_worlds:odd/KIND-v0`` registers them in any process.
"""

import os
import time
from typing import Any

import gymnasium as gym
import numpy as np

BAD_SEED, BAD_STEP, STEPS = 102, 5, 12
KINDS = (
    "well",
    "nan_observation",
    "far_observation",
    "nan_reward",
    "raises",
    "raises_at_reset",
    "dies",
    "hangs",
    "interrupts",
    "close_raises",
    "no_success",
    "success_key",
    "falls",
    "negative",
    "no_rate",
    "no_picture",
    "picture_raises",
    "exact_rewards_differ",
)


class Odd(gym.Env[Any, Any]):
    """Move on a line from a place that the seed gives; the reward is the place / 100."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 (gymnasium's)
    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, kind: str, render_mode: str | None = None) -> None:
        self.kind, self.render_mode, self.resets = kind, render_mode, 0
        if kind == "no_rate":
            self.metadata = {"render_modes": ["rgb_array"]}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.count, self.bad = float(seed or 0) - 100, 0, seed == BAD_SEED
        self.resets += 1
        if self.bad and self.kind == "raises_at_reset":
            raise RuntimeError("no scene")
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert np.isfinite(action).all()
        self.place += float(action[0])
        self.count += 1
        reward = self.place / 100
        if self.bad and self.count >= BAD_STEP:
            self._go_wrong()
            reward = np.nan if self.kind == "nan_reward" else reward
        if self.kind == "negative":
            reward -= 1000
        if self.kind == "exact_rewards_differ":
            reward += self.resets
        fell = self.kind in ("falls", "no_success") and self.count == 7
        return self._seen(), reward, fell, False, self._info()

    def _go_wrong(self) -> None:
        if self.kind == "raises":
            raise RuntimeError("the arm\ncame off")
        if self.kind == "dies":
            os._exit(3)
        if self.kind == "hangs":
            time.sleep(1000)
        if self.kind == "interrupts":
            raise KeyboardInterrupt

    def _info(self) -> dict[str, Any]:
        if self.kind == "no_success":
            return {}
        return {"success" if self.kind == "success_key" else "is_success": self.count == STEPS}

    def _seen(self) -> Any:
        place = np.array([self.place], np.float32)
        if self.bad and self.count >= BAD_STEP:
            place *= {"nan_observation": np.nan, "far_observation": 1e6}.get(self.kind, 1)
        return place

    def render(self) -> Any:
        if self.kind == "picture_raises":
            raise OSError("no display")
        return None if self.kind == "no_picture" else np.full((64, 64, 3), 50, np.uint8)

    def close(self) -> None:
        if self.kind == "close_raises":
            raise RuntimeError("the motor stays on")


for _kind in KINDS:
    gym.register(f"odd/{_kind}-v0", Odd, max_episode_steps=STEPS, kwargs={"kind": _kind})
gym.register("odd/endless-v0", Odd, kwargs={"kind": "well"})
