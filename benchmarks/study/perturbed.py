"""Push-T observations as they are not in the demonstrations; all in pixels, all paired by row.

An observation is a list of points ``x, y``: nine on the block, then the agent.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcm_policy.measure.exactness import certification, certified_solver, chunk_error, solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver

ALONE = 64
"""Observations of each kind that are solved until certified, one by one."""


def noisy(obs: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Add Gaussian noise to every number of ``(n, To, Do)``, every frame its own."""
    return obs + pixels * torch.randn(obs.shape, generator=generator)


def shifted_goal(obs: Tensor, pixels: float, generator: torch.Generator) -> Tensor:
    """Move the goal by so much in a random direction: everything else moves the other way."""
    angle = 2 * math.pi * torch.rand(len(obs), 1, 1, 1, generator=generator)
    offset = pixels * torch.cat([angle.cos(), angle.sin()], dim=-1)
    return (obs.unflatten(-1, (-1, 2)) - offset).flatten(-2)


def turned(obs: Tensor, degrees: float, generator: torch.Generator) -> Tensor:
    """Turn the block about the mean of its points, either way."""
    points = obs.unflatten(-1, (-1, 2))
    block, agent = points[..., :-1, :], points[..., -1:, :]
    sign = torch.randint(2, (len(obs), 1, 1), generator=generator) * 2.0 - 1.0
    angle = math.radians(degrees) * sign
    centre = block.mean(dim=-2, keepdim=True)
    x, y = (block - centre).unbind(-1)
    moved = torch.stack(
        [angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], dim=-1
    )
    return torch.cat([moved + centre, agent], dim=-2).flatten(-2)


Perturbation = Callable[[Tensor, float, torch.Generator], Tensor]
PERTURBATIONS: dict[str, tuple[Perturbation, float]] = {
    "noise 2 px": (noisy, 2.0),
    "noise 5 px": (noisy, 5.0),
    "goal moved 30 px": (shifted_goal, 30.0),
    "block turned 15 degrees": (turned, 15.0),
}


def situations(obs: Tensor) -> dict[str, Tensor]:
    """Return the observations as they are, and perturbed in every way."""
    found = {"held out": obs}
    for name, (change, size) in PERTURBATIONS.items():
        found[name] = change(obs, size, torch.Generator().manual_seed(0))
    return found


def robustness(
    policy: DiffusionPolicy, obs: Tensor, rounds: tuple[int, ...] = (1, 2, 3)
) -> list[dict[str, Any]]:
    """Measure a policy with a PCM head on held-out and on perturbed observations.

    Returns:
        One dictionary a kind: RMSE to the sequential chunk after each number of rounds, growth of
        the two-round one over the held-out one, and for the certified solve at 1e-2 the rounds, the
        most rounds, and the largest true error.
    """
    assert policy.config.head is not None
    wanted = Solver.of("sequential", policy.config.head.sampler)
    rows: list[dict[str, Any]] = []
    for name, seen in situations(obs).items():
        exact = solved(policy, wanted, seen)
        rmse = {}
        for r in rounds:
            found = solved(policy, policy.solver({"method": "pcm", "rounds": r}), seen)
            rmse[str(r)] = chunk_error(found, exact).rmse
        pick = torch.linspace(0, len(seen) - 1, min(ALONE, len(seen))).long()
        certified = certification(policy, certified_solver(policy, 1e-2), seen[pick])
        row: dict[str, Any] = {"observations": name, "rmse": rmse}
        row["growth_2"] = rmse["2"] / (rows[0]["rmse"]["2"] if rows else rmse["2"])
        row |= {
            "certified_rounds": certified.rounds,
            "most_rounds": certified.worst_rounds,
            "worst_error": certified.worst_error,
            "coverage": certified.coverage,
        }
        rows.append(row)
    return rows
