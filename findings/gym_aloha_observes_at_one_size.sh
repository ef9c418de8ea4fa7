#!/usr/bin/env bash
# gym-aloha 0.1.5: observation_height and observation_width change what the environment *declares*,
# not what it observes. Pictures stay 480 x 640, whatever is asked for, so that an observation is
# not in its own observation space; gymnasium's own membership test says so.
#
# Seen with gym-aloha 0.1.5, dm-control 1.0.28, mujoco 3.3.0 and gymnasium 1.4.0 on Python 3.11
# (needs libEGL; MUJOCO_GL=osmesa with libOSMesa does as well):
#   asked (96, 128, 3), declared (96, 128, 3), observed (480, 640, 3), contained False
#   as it is: declared (480, 640, 3), observed (480, 640, 3), contained True
# The renderer draws three cameras at 480 x 640 in every step, of which one is observed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/env"
"$folder/env/bin/pip" install -q gym-aloha==0.1.5 dm-control==1.0.28 mujoco==3.3.0 gymnasium==1.4.0 "numpy<3"
MUJOCO_GL=${MUJOCO_GL:-egl} "$folder/env/bin/python" - << 'PYTHON'
import gymnasium as gym
import gym_aloha  # noqa: F401


def shapes(**asked):
    env = gym.make("gym_aloha/AlohaTransferCube-v0", disable_env_checker=True, **asked)
    seen, _ = env.reset(seed=0)
    found = env.observation_space["top"].shape, seen["top"].shape
    return *found, env.observation_space.contains(seen)


small = shapes(observation_height=96, observation_width=128)
print("asked (96, 128, 3), declared %s, observed %s, contained %s" % small)
whole = shapes()
print("as it is: declared %s, observed %s, contained %s" % whole)
assert small == ((96, 128, 3), (480, 640, 3), False), small
assert whole == ((480, 640, 3), (480, 640, 3), True), whole
PYTHON
echo "unchanged"
