"""Gymnasium environments: importing this module registers every ``pcm_policy/*`` id.

``gymnasium.make("pcm_policy.envs:pcm_policy/PushTKeypoints-v0")`` does so by itself, in worker
processes too. A simulator is imported when an environment is made, not before.
"""

import gymnasium as gym

from pcm_policy.envs.metaworld_tasks import METAWORLD_TASKS
from pcm_policy.envs.robosuite_tasks import TASKS as ROBOSUITE_TASKS

gym.register(
    id="pcm_policy/PushTKeypoints-v0",
    entry_point="pcm_policy.envs.pusht:PushTKeypoints",
    max_episode_steps=300,
)
gym.register(
    id="pcm_policy/PushTImage-v0",
    entry_point="pcm_policy.envs.pusht:PushTImage",
    max_episode_steps=300,
)
gym.register(
    id="pcm_policy/AdroitDoor-v0",
    entry_point="pcm_policy.envs.adroit:AdroitDoor",
    max_episode_steps=300,
)
gym.register(
    id="pcm_policy/FrankaKitchen-v0",
    entry_point="pcm_policy.envs.kitchen:Kitchen",
    max_episode_steps=280,
)
for _name, _aloha in {"TransferCube": "transfer_cube", "Insertion": "insertion"}.items():
    gym.register(
        id=f"pcm_policy/Aloha{_name}-v0",
        entry_point="pcm_policy.envs.aloha:Aloha",
        max_episode_steps=300,
        kwargs={"task": _aloha},
    )
for _task in METAWORLD_TASKS:
    gym.register(
        id=f"pcm_policy/MetaWorld-{_task}-v3",
        entry_point="pcm_policy.envs.metaworld:MetaWorld",
        max_episode_steps=500,
        kwargs={"task": _task},
    )
for _name, _robosuite in ROBOSUITE_TASKS.items():
    gym.register(
        id=f"pcm_policy/{_name}-v0",
        entry_point="pcm_policy.envs.robosuite:Robosuite",
        max_episode_steps=_robosuite.max_steps,
        kwargs={"task": _name},
    )
gym.register(id="pcm_policy/Robosuite-v0", entry_point="pcm_policy.envs.robosuite:Robosuite")
