"""A small policy that nobody trained, with the shapes and ranges of a task."""

from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
import torch

import pcm_policy.envs  # noqa: F401 (registers the environments)
from pcm_policy.cli.compose import compose, env_kwargs, plain
from pcm_policy.fields import join_fields
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig


def tiny_policy(task: str, max_excess: float = 1e6) -> tuple[DiffusionPolicy, dict[str, Any]]:
    """Return a policy for a task, and the task's settings."""
    torch.manual_seed(0)
    settings = plain(compose("eval", [f"task={task}", "output_dir=unused"]).task)
    shapes = {
        name: settings[name]
        for name in ("obs_dim", "action_dim", "horizon", "obs_steps", "action_steps", "control_hz")
    }
    config = PolicyConfig(
        **shapes,
        network_options={"width": 16, "depth": 1},
        sampler=SamplerConfig("ddim", 3),
        task=settings["name"],
        obs_fields=tuple(settings["obs_fields"]),
        max_excess=max_excess,
    )
    policy = DiffusionPolicy(config)
    with closing(gym.make(settings["env_id"], **env_kwargs(settings))) as env:
        frame, _ = env.reset(seed=0)
        if isinstance(frame, dict):
            frame = join_fields(frame, config.obs_fields)
        rows = np.stack([frame - 1, frame + 1]).astype(np.float32)
        policy.obs_normalizer = Normalizer.fit(torch.from_numpy(rows))
        box = env.action_space
    assert isinstance(box, gym.spaces.Box)
    low = np.where(np.isfinite(box.low), box.low, -1.0).astype(np.float32)
    high = np.where(np.isfinite(box.high), box.high, 1.0).astype(np.float32)
    middle, some = (low + high) / 2, (high - low) / 20  # the whole range shakes a robot to pieces
    near = np.stack([middle - some, middle + some])
    policy.action_normalizer = Normalizer.fit(torch.from_numpy(near))
    return policy.eval(), settings
