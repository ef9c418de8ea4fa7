"""Picard iteration in affine form, with an optional Picard Consistency Model in its first rounds.

Sources: Shih et al. 2023 (ParaDiGMS), Tang et al. 2024 (the full-order system), So et al. 2025 (PCM
and model switching).
"""

from collections.abc import Sequence
from typing import Any

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.before.base import SolveResult
from pcm_policy.solvers.before.iterate import Predictor, iterate


def picard(
    denoise: Denoiser,
    noise: Noise,
    *,
    head: Predictor | None = None,
    strengths: Sequence[float] = (),
    **options: Any,
) -> SolveResult:
    """Solve by plain rounds ``X <- F + M D(X)``.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        head: the PCM.
        strengths: its share lambda(k) of round ``k``; base rounds after that.
        options: as for :func:`~pcm_policy.solvers.before.iterate.iterate`.
    """
    return iterate(denoise, noise, head=head, strengths=strengths, **options)
