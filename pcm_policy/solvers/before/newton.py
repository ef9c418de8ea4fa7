"""Quasi-Newton rounds: the denoiser's mean Jacobian, measured once, is inverted with the system.

Linearise ``D`` at the current states with a diagonal Jacobian ``C_j`` (one number for every step
and dimension of the chunk, the mean over held-out observations): ``P = D(X) + C (X' - X)`` with
``X' = F + M P`` is linear and triangular in ``P``: ``P = (I - C M)^{-1} (D(X) + C (F - X))``,
with a matrix that is computed once per sampler. A round costs one batched network call, as before,
and one more matrix product. The fixed point is the same for every ``C``.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.before.anderson import Anderson
from pcm_policy.solvers.before.base import SolveResult, combine
from pcm_policy.solvers.before.coarse import coarse_counts
from pcm_policy.solvers.before.iterate import Round, iterate
from pcm_policy.solvers.newton import Jacobian, mean_jacobian

__all__ = ["Jacobian", "QuasiNewton", "mean_jacobian", "newton"]


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
            :mod:`~pcm_policy.solvers.before.coarse`; they are not corrected.
        memory: see :class:`QuasiNewton`.
        options: as for :func:`~pcm_policy.solvers.before.iterate.iterate`.
    """
    return iterate(
        denoise,
        noise,
        coarse=coarse_counts(denoise.sampler.steps, shares),
        correct=QuasiNewton(jacobian, memory),
        **options,
    )
