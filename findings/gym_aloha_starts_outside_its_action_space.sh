#!/usr/bin/env bash
# gym-aloha 0.1.5: actions are absolute joint angles in radians and grippers from 0 to 1, and the
# environment declares them as Box(-1, 1). The pose that every episode starts in is not in that
# space (elbows at 1.16 rad), so gymnasium's ClipAction, a policy that squashes to the declared
# range, or sampling from it cannot even hold the arms still.
#
# Seen with gym-aloha 0.1.5, dm-control 1.0.28, mujoco 3.3.0 and gymnasium 1.4.0 on Python 3.11
# (nothing is drawn: pictures are replaced by black ones):
#   declared [-1, 1], joints [-3.14, 3.14]; the start is in the action space: False
#   holding the start for 50 steps moves the joints by 0.01 rad, through ClipAction by 0.16 rad
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q gym-aloha==0.1.5 dm-control==1.0.28 mujoco==3.3.0 gymnasium==1.4.0 "numpy<3"
"$folder/env/bin/python" - << 'PYTHON'
import warnings

warnings.simplefilter("ignore")
import gymnasium as gym
import gym_aloha  # noqa: F401
import numpy as np
from gymnasium.wrappers import ClipAction


def held(wrap):
    env = gym.make(
        "gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos", disable_env_checker=True
    )
    physics = env.unwrapped._env.physics
    physics.__class__.render = lambda self, height, width, **_: np.zeros((height, width, 3), np.uint8)
    env = wrap(env)
    start = env.reset(seed=0)[0]["agent_pos"].astype(np.float32)
    for _ in range(50):
        seen = env.step(start)[0]["agent_pos"]
    inside = env.unwrapped.action_space.contains(start)
    return float(np.abs(seen - start).max()), inside, env.unwrapped.action_space, physics.model.jnt_range


moved, inside, space, joints = held(lambda env: env)
clipped, *_ = held(ClipAction)
print(f"declared [{space.low.min():.0f}, {space.high.max():.0f}], joints "
      f"[{joints.min():.2f}, {joints.max():.2f}]; the start is in the action space: {inside}")
print(f"holding the start for 50 steps moves the joints by {moved:.2f} rad, "
      f"through ClipAction by {clipped:.2f} rad")
assert not inside
assert (space.low == -1).all() and (space.high == 1).all()
assert moved < 0.03, moved
assert clipped > 0.1, clipped
PYTHON
echo "unchanged"
