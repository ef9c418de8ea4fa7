"""LeRobot as one side of the comparison.

``PCM_LEROBOT_PYTHON`` names the Python of an environment made by ``benchmarks/lerobot/env.py``, or
several, separated as in ``PATH``: tests run in each of them, comparisons in the first.
"""

import os

from torch import Tensor

from benchmarks.compare.sides import Side, Solved
from pcm_policy.adopt.lerobot_peer import LeRobotPeer


def pythons() -> list[str]:
    """Return the Pythons of LeRobot's environments."""
    named = os.environ.get("PCM_LEROBOT_PYTHON", "")
    return [python for python in named.split(os.pathsep) if python]


def python() -> str | None:
    """Return the first of them, or None where there is none."""
    return next(iter(pythons()), None)


def lerobot_side(peer: LeRobotPeer) -> Side:
    """Return the row: one call in the child, timed there.

    Its chunks are those that were compared, one a seed in ``peer.seeds``; the child keeps the
    chunks of other seeds to itself, and the row's sample then is that of ``seed % n``.
    """
    steps = peer.sampler.steps

    def run(obs: Tensor, seed: int) -> Solved:
        ms = peer.time(seed)
        return Solved(peer.chunks[seed % len(peer.chunks)], steps, steps, ms)

    label = f"{peer.sampler.name}-{steps}"
    return Side("lerobot", "sequential", label, peer.sampler, run, memory=peer.memory)
