"""PCM with adaptive switching: the head is used, row by row, for as long as it helps.

A head that adds to the base prediction has ``D(X)`` at hand in every round, and with it the base
residual ``|F + M D(X) - X|``. A row leaves its head when that residual no longer shrinks, and is
certified, in any round, as soon as the residual is small enough; the base round that proves it has
been computed already, so that certification costs no further round. Rows without their head take
quasi-Newton rounds if the base's Jacobian is given, and are mixed as by
:mod:`~pcm_policy.solvers.before.anderson`, which remembers the head's rounds as well.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.before.anderson import Anderson
from pcm_policy.solvers.before.base import SolveResult, combine
from pcm_policy.solvers.before.iterate import Correction, Round, iterate
from pcm_policy.solvers.before.newton import Jacobian, QuasiNewton

HeadOnBase = Callable[[Denoiser, Tensor, Tensor, int, Tensor], Tensor]
"""``(denoise, forced, states, k, base) -> predictions``, all ``(N, B, T, Da)``."""

SHRINK = 0.5
"""A head round that leaves more than this share of the base residual was the row's last."""


class HeadCorrection:
    """The head as a correction of base rounds, with one solve's memory of residuals.

    Args:
        denoise: the base map.
        head: predicts from states and base predictions.
        most: rounds that the head may be used in; base rounds after them.
        shrink: see :data:`SHRINK`.
        memory: rounds that Anderson mixing looks back; 0 leaves plain base rounds.
        jacobian: of the base, for quasi-Newton rounds under the mixing; None for plain rounds.
    """

    def __init__(
        self,
        denoise: Denoiser,
        head: HeadOnBase,
        most: int,
        shrink: float = SHRINK,
        memory: int = 2,
        jacobian: Jacobian | None = None,
    ) -> None:
        self.denoise, self.head, self.most, self.shrink = denoise, head, most, shrink
        self.mixer: Correction | None
        if jacobian is not None:
            self.mixer = QuasiNewton(jacobian, memory)
        else:
            self.mixer = Anderson(memory) if memory else None
        self._residual: Tensor | None = None
        self._on: Tensor | None = None

    def __call__(self, round: Round) -> Tensor:
        """Return the head's states for rows that still use it, mixed base states for the others."""
        mixed = round.swept if self.mixer is None else self.mixer(round)
        if round.k >= self.most:
            return mixed
        residual = (round.swept - round.states).abs().amax(dim=(0, 2, 3))
        on = torch.ones_like(residual, dtype=torch.bool) if self._on is None else self._on
        if self._residual is not None:
            on = on & (residual <= self.shrink * self._residual)
        self._residual, self._on = residual, on
        forced, states = round.forced[:-1], round.states[:-1]
        predictions = self.head(self.denoise, forced, states, round.k, round.base)
        jumped = round.forced + combine(round.sampler.M, predictions)
        return torch.where(on[:, None, None], jumped, mixed)


def adaptive(
    denoise: Denoiser,
    noise: Noise,
    *,
    head: HeadOnBase,
    most: int,
    shrink: float = SHRINK,
    memory: int = 2,
    jacobian: Jacobian | None = None,
    tolerance: float,
    rounds: int | None = None,
    **options: object,
) -> SolveResult:
    """Solve to a certified tolerance with as much of the head as helps.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        head: the PCM.
        most: rounds that it may be used in.
        shrink: see :data:`SHRINK`.
        memory: see :class:`HeadCorrection`.
        jacobian: see :class:`HeadCorrection`.
        tolerance: certified error to stop at.
        rounds: the largest number of rounds.
        options: as for :func:`~pcm_policy.solvers.before.iterate.iterate`.
    """
    return iterate(
        denoise,
        noise,
        correct=HeadCorrection(denoise, head, most, shrink, memory, jacobian),
        tolerance=tolerance,
        rounds=rounds,
        **options,  # type: ignore[arg-type]
    )
