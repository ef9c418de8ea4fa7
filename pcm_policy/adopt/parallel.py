"""Policies of LeRobot solved in parallel rounds from outside, whichever kind they are."""

from collections.abc import Mapping
from typing import Any

from pcm_policy.adopt.multi_task_dit import MultiTaskDiT, is_multi_task_dit
from pcm_policy.adopt.seam import Seam
from pcm_policy.adopt.vla import VLA, is_vla
from pcm_policy.errors import PcmError
from pcm_policy.solvers.registry import Solver


def parallel(policy: Any, solver: Solver | Mapping[str, Any] | None = None, seed: int = 0) -> Seam:
    """Return a block inside which a LeRobot policy's chunks are solved in parallel rounds.

    Args:
        policy: SmolVLA, pi0, pi0.5 or multi_task_dit, loaded by LeRobot.
        solver: a solver, or flat settings as ``solver=...`` takes them; None for Anderson rounds
            until the chunk is certified to 1e-3.
        seed: of the noise that a Jacobian is measured with.

    Raises:
        PcmError: another kind of policy, or one that cannot be solved so; a wrong solver.

    Example:
        ``with parallel(policy, {"method": "picard", "tolerance": 1e-3}) as rounds:``, then
        LeRobot's own calls.
    """
    for kind, fits in ((VLA, is_vla), (MultiTaskDiT, is_multi_task_dit)):
        if fits(policy):
            return kind(policy, solver, seed)
    raise PcmError(
        f"{type(policy).__name__} is not solved from outside: smolvla, pi0, pi05 and "
        "multi_task_dit are; a diffusion policy is imported by pcm-import"
    )
