"""Triangular Anderson acceleration of the Picard iteration (ParaTAA, Tang et al. 2024).

Each state is extrapolated from the last few rounds by least squares over the residuals of *strictly
noisier* states, so that the system stays triangular: a state never learns from states that depend
on it. (ParaTAA includes the state itself; without it, 7.2 rounds in place of 8.1 for DDPM-100.)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.system import Iterate, Round, System, changed, wide


@STEPS.add("anderson")
@dataclass(frozen=True)
class Anderson(Step):
    """Extrapolate whole rounds of another step from the last few.

    Attributes:
        memory: number of earlier rounds in the least squares; 2 or 3 is best.
        ridge: share of the mean squared residual difference added to the normal equations.
        inner: the step whose rounds are extrapolated.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Anderson, Rounds
        >>> found = policy.predict(obs, solver=Solver(Anderson(memory=3), Rounds(4))).solve
        >>> found.rounds
        4
    """

    memory: int = setting(2, int, least=1)
    ridge: float = setting(1e-3, above=0)
    inner: Step = Picard()

    def init(self, s: System) -> Any:
        """Return the inner step's memory and empty lists."""
        return self.inner.init(s), None, (), ()

    def early(self) -> int | None:
        """Return the inner step's count; the memory itself shows whether it is full."""
        return self.inner.early()

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Make the inner step's round and extrapolate it; the first one stays as it is."""
        inner, last, moves, changes = memory
        r, inner = self.inner.step(s, x, inner)
        if not r.whole:
            return r, (inner, last, moves, changes)
        residual = r.X - x.X
        if last is not None:
            moves = (*moves, x.X - last[0])[-self.memory :]
            changes = (*changes, residual - last[1])[-self.memory :]
        if moves:
            V, C = torch.stack(moves), torch.stack(changes)
            inside = tuple(range(2 - x.X.ndim, 0))
            gram = noisier((C[:, None] * C).sum(dim=inside))
            share = least_squares(gram, noisier((C * residual).sum(dim=inside)), self.ridge)
            r = changed(r, X=r.X - (wide(share, C) * (V + C)).sum(dim=0))
        return r, (inner, (x.X, residual), moves, changes)


def noisier(values: Tensor) -> Tensor:
    """Sum over all strictly noisier states: ``(..., N + 1, B)`` to the same shape."""
    total = values.cumsum(dim=-2)
    return torch.cat([torch.zeros_like(total[..., :1, :]), total[..., :-1, :]], dim=-2)


def least_squares(gram: Tensor, right: Tensor, ridge: float) -> Tensor:
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
