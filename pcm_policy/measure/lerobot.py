"""LeRobot's rows of a benchmark: its own DDPM and DDIM loops on the policy's weights."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from pcm_policy.adopt.lerobot_peer import LeRobotPeer
from pcm_policy.adopt.lerobot_sampling import unsupported
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig

CHECKED = 16
"""Observations whose chunks are compared with ours before anything is timed."""


def open_peers(
    python: str,
    policy: DiffusionPolicy,
    samplers: Sequence[SamplerConfig],
    obs: Tensor,
    stack: ExitStack,
) -> tuple[list[LeRobotPeer], list[str]]:
    """Start a process of LeRobot for every sampler that it has.

    Args:
        python: Python of LeRobot's environment.
        policy: the policy.
        samplers: what its sequential rows solve.
        obs: ``(n, To, Do)`` raw observations.
        stack: closes the processes.

    Returns:
        The processes, and a line for each sampler that LeRobot cannot run.

    Raises:
        PcmError: there is no such Python, or LeRobot's chunks are not ours.
    """
    peers, left_out = [], []
    batches = obs[:CHECKED, None]
    for sampler in samplers:
        reason = unsupported(policy, sampler)
        if reason is None:
            peer = LeRobotPeer(python, policy, sampler, batches, list(range(len(batches))))
            peers.append(stack.enter_context(peer))
        else:
            left_out.append(f"lerobot {sampler.label} is left out: {reason}")
    return peers, left_out


def peer_errors(peer: LeRobotPeer) -> dict[str, Any]:
    """Return rounds, errors to our sequential chunks and version of LeRobot's row."""
    steps = peer.sampler.steps
    return {
        "version": peer.name,
        "rounds": float(steps),
        "worst_rounds": steps,
        "nfe": float(steps),
        "max_abs_error": peer.difference,
        "mean_abs_error": float(peer.off.mean()),
        "rmse": float(peer.off.square().mean(dim=(-2, -1)).sqrt().mean()),
    }
