"""Rounds that an iteration takes until its chunk stays close to the sequential one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.rows import Row, settings
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.runtime.timing import Progress
from pcm_policy.solvers.loop import rounds
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.stops import Rounds

COUNTED_ROUNDS = 40


@dataclass(frozen=True)
class Trace:
    """Errors of a row's chunks after every round.

    Attributes:
        row: whose.
        mean_rounds: mean rounds after which the largest action error stays below the wanted one.
        worst_rounds: most of them.
        mean_error_by_round: largest action error, mean over observations, after every round.
        worst_error_by_round: the same, largest over observations.
    """

    row: Row
    mean_rounds: float
    worst_rounds: int
    mean_error_by_round: list[float]
    worst_error_by_round: list[float]

    @property
    def label(self) -> str:
        """The solver's name, without where it stops."""
        return self.row.solver.step.label()

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "solver": self.label,
            "settings": settings(self.row.solver),
            "reference": self.row.reference.label,
            "mean_rounds": self.mean_rounds,
            "worst_rounds": self.worst_rounds,
            "worst_error_by_round": self.worst_error_by_round,
            "mean_error_by_round": self.mean_error_by_round,
        }


@torch.inference_mode()
def count_rounds(
    policy: DiffusionPolicy,
    obs: Tensor,
    rows: Sequence[Row],
    error: float,
    seed: int,
    progress: Progress,
) -> list[Trace]:
    """Count the rounds after which the largest action error stays below ``error``.

    Args:
        policy: the policy.
        obs: ``(n, To, Do)`` raw observations.
        rows: those that stop by a tolerance are followed.
        error: in normalised action units.
        seed: of the noise.
        progress: shows how far it has come.
    """
    counted = [row for row in rows if row.solver.tolerance is not None]
    result = []
    for row in progress(counted, "rounds"):
        sequential = Solver.of("sequential", row.reference)
        noise = paired_noise(policy, sequential, len(obs), seed).to(policy.device, policy.dtype)
        exact = policy.solve(obs, sequential, noise).sample
        s, x = policy.assemble(Inputs(obs, noise), row.solver)
        walk = rounds(s, x, row.solver.step, Rounds(min(COUNTED_ROUNDS, row.reference.steps)))
        errors = [(x.X[-1] - exact).abs().amax(dim=(1, 2)) for _, x, _ in walk]
        trace = torch.stack(errors).cpu()
        late = trace >= error
        last = torch.where(late, torch.arange(1, len(trace) + 1)[:, None], 0).amax(dim=0)
        needed = (last + 1).double()
        result.append(
            Trace(
                row,
                float(needed.mean()),
                int(needed.max()),
                trace.mean(dim=1).tolist(),
                trace.amax(dim=1).tolist(),
            )
        )
    return result
