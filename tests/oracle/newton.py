"""Quasi-Newton rounds: the denoiser's mean Jacobian, measured once, is inverted with the system.

Linearise ``D`` at the current states with a diagonal Jacobian ``C_j`` (one number for every step
and dimension of the chunk, the mean over held-out observations): ``P = D(X) + C (X' - X)`` with
``X' = F + M P`` is linear and triangular in ``P``: ``P = (I - C M)^{-1} (D(X) + C (F - X))``,
with a matrix that is computed once per sampler. A round costs one batched network call, as before,
and one more matrix product. The fixed point is the same for every ``C``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler
from tests.oracle.anderson import Anderson
from tests.oracle.base import SolveResult, combine, forcing
from tests.oracle.coarse import coarse_counts
from tests.oracle.iterate import Round, iterate
from tests.oracle.sequential import sequential

DAMPING = 0.8
"""Share of the mean Jacobian that is used: the rounds count is flat around it."""


@dataclass(frozen=True)
class Jacobian:
    """The mean diagonal Jacobian of ``D``, inverted with a sampler's system.

    Attributes:
        diagonal: ``(N, T, Da)``, damped.
        inverse: ``(T * Da, N, N)``, ``(I - C M)^{-1}`` of every entry of the chunk.
    """

    diagonal: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, sampler: AffineSampler, diagonal: Tensor, damping: float = DAMPING) -> "Jacobian":
        """Invert the system once, in float64."""
        C = (damping * diagonal.double()).flatten(1).T[..., None]
        eye = torch.eye(sampler.steps, dtype=C.dtype, device=C.device)
        inverse = torch.linalg.inv(eye - C * sampler.M[:-1].double())
        return cls(damping * diagonal, inverse.to(diagonal.dtype))

    def predict(self, base: Tensor, forced: Tensor, states: Tensor) -> Tensor:
        """Return the predictions ``(N, B, T, Da)`` that solve the linearised system.

        Args:
            base: ``(N, B, T, Da)``, ``D(X)``.
            forced: ``(N, B, T, Da)``, ``F`` of the same states.
            states: ``(N, B, T, Da)``, ``X``.
        """
        right = base + self.diagonal[:, None] * (forced - states)
        flat = right.flatten(2).permute(2, 0, 1)
        return (self.inverse @ flat).permute(1, 2, 0).reshape(right.shape)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Jacobian":
        """Return a copy on ``device`` in ``dtype``."""
        return Jacobian(self.diagonal.to(device, dtype), self.inverse.to(device, dtype))


@torch.no_grad()
def mean_jacobian(denoise: Denoiser, noise: Noise, rounds: int = 8) -> Tensor:
    """Measure the diagonal Jacobian of ``D`` by secants of Picard iterates to the exact trajectory.

    Regression over the batch, every iterate weighted by its distance so that none dominates.

    Args:
        denoise: the base map, with conditions that are not used for measuring errors later.
        noise: as many rows.
        rounds: Picard iterates that are used; the first is left out, being far from linear.

    Returns:
        ``(N, T, Da)``.
    """
    sampler = denoise.sampler
    nodes = slice(0, sampler.steps)
    forced, exact = forcing(sampler, noise), sequential(denoise, noise).trajectory[:-1]
    target = denoise(exact, nodes)
    states, over, under = forced, torch.zeros_like(target[:, 0]), torch.zeros_like(target[:, 0])
    for k in range(rounds):
        found = denoise(states[:-1], nodes)
        off = states[:-1] - exact
        weight = 1.0 / (off.square().mean(dim=(0, 2, 3), keepdim=True) + 1e-6)
        if k:
            over = over + (weight * off * (found - target)).sum(dim=1)
            under = under + (weight * off.square()).sum(dim=1)
        states = forced + combine(sampler.M, found)
    return over / (under + 1e-9)


class QuasiNewton:
    """Correction of a base round by the mean Jacobian, then by Anderson mixing.

    Args:
        jacobian: of this sampler.
        memory: Anderson's memory over the corrected rounds; 0 for none.
    """

    def __init__(self, jacobian: Jacobian, memory: int = 2) -> None:
        self.jacobian = jacobian
        self.mixer = Anderson(memory) if memory else None

    def __call__(self, round: Round) -> Tensor:
        """Return the next states."""
        forced, states = round.forced[:-1], round.states[:-1]
        predictions = self.jacobian.predict(round.base, forced, states)
        swept = round.forced + combine(round.sampler.M, predictions)
        return swept if self.mixer is None else self.mixer.mix(round.states, swept)


def newton(
    denoise: Denoiser,
    noise: Noise,
    *,
    jacobian: Jacobian,
    shares: Sequence[float] = (),
    memory: int = 2,
    **options: Any,
) -> SolveResult:
    """Solve by quasi-Newton rounds.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        jacobian: mean Jacobian of this base and sampler, from :func:`mean_jacobian`.
        shares: share of the nodes that the first rounds evaluate, as in
            :mod:`~tests.oracle.coarse`; they are not corrected.
        memory: see :class:`QuasiNewton`.
        options: as for :func:`~tests.oracle.iterate.iterate`.
    """
    return iterate(
        denoise,
        noise,
        coarse=coarse_counts(denoise.sampler.steps, shares),
        correct=QuasiNewton(jacobian, memory),
        **options,
    )
