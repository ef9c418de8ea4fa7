"""Picard iteration in affine form, with an optional Picard Consistency Model in its first rounds.

One round evaluates the network at every state of the window at once and re-integrates:
``X <- F + M D(X)``. ``M`` is strictly lower triangular, so each base round makes one more leading
state exact and ``N`` base rounds are always enough. Sources: Shih et al. 2023 (ParaDiGMS), Tang et
al. 2024 (the full-order system), So et al. 2025 (PCM and model switching).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcm_policy.deadline import Stop
from pcm_policy.denoise import Denoiser
from pcm_policy.errors import PcmError
from pcm_policy.noise import Noise
from pcm_policy.solvers.base import SolveResult, Watch, check_reach, combine, forcing

Predictor = Callable[[Denoiser, Tensor, int, float], Tensor]
"""``(denoise, states (N, B, T, Da), k, strength) -> predictions (N, B, T, Da)`` of a PCM round."""

SAFETY = 4.0
"""Largest ratio of true error to last base residual that was measured (docs/picard.md)."""


def picard(
    denoise: Denoiser,
    noise: Noise,
    *,
    rounds: int | None = None,
    tolerance: float | None = None,
    safety: float = SAFETY,
    window: int | None = None,
    guess: Tensor | None = None,
    head: Predictor | None = None,
    strengths: Sequence[float] = (),
    stop: Stop | None = None,
    watch: Watch | None = None,
) -> SolveResult:
    """Solve ``X = F + M D(X)`` by parallel rounds.

    A row that is certified stops there, so that its result does not depend on its batch mates (a
    window shorter than the trajectory moves for all rows together).

    Round ``k`` uses the head at ``strengths[k]``; once that is zero or the list has ended, the base
    model alone. With ``tolerance=None`` exactly ``rounds`` rounds run and nothing is read back from
    the device, so that the solve can be captured in a CUDA graph.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        rounds: number of rounds, or with a tolerance the largest number; None for no limit.
        tolerance: stop when ``safety`` times the residual of a base round is below this, in
            normalised action units; None for a fixed number of rounds.
        safety: assumed ratio of the true error to the residual.
        window: largest number of states evaluated in a base round; None for all of them. The
            window slides over states that have stopped changing (or, with fixed rounds, by one).
        guess: ``(B, T, Da)`` or ``(N, B, T, Da)`` guess of the clean chunks; the fixed point does
            not depend on it. None is a chunk of zeros.
        head: the PCM, called with the states before the last one.
        strengths: the head's share lambda(k) of round ``k``.
        stop: asked after every round, see :class:`~pcm_policy.deadline.Deadline`.
        watch: called with all states ``(N + 1, B, T, Da)`` after every round.

    Returns:
        The result; ``certified`` says for which rows the sample is within ``tolerance``.

    Raises:
        PcmError: neither ``rounds`` nor ``tolerance``, too few rounds for the window, or a
            guess of the wrong shape.
    """
    sampler, steps = denoise.sampler, denoise.sampler.steps
    window = steps if window is None else window
    _check(steps, rounds, tolerance, window, head, strengths)
    fixed_part = forcing(sampler, noise)
    predictions = _first_predictions(guess, fixed_part[1:])
    states = fixed_part + combine(sampler.M, predictions)
    change = torch.zeros_like(states[..., 0, 0])
    lo = hi = used = nfe = 0
    done = torch.zeros_like(change[0], dtype=torch.bool)
    residuals: list[Tensor] = []
    cold, pure = guess is None, False
    while lo < steps and (rounds is None or used < rounds):
        if used and stop is not None and stop():
            break
        strength = strengths[used] if used < len(strengths) else 0.0
        pure = head is None or strength == 0.0
        if head is None or pure:
            hi = min(lo + window, steps)
            predictions[lo:hi] = denoise(states[lo:hi], slice(lo, hi))
            if cold:
                predictions[hi:] = predictions[hi - 1]
        else:
            lo, hi, cold = 0, steps, False
            predictions = head(denoise, states[:-1], used, strength)
        updated = fixed_part + combine(sampler.M, predictions)
        updated[: lo + 1] = states[: lo + 1]
        if tolerance is not None:
            updated = torch.where(done[:, None, None], states, updated)
        change[lo + 1 : hi + 1] = (updated - states)[lo + 1 : hi + 1].abs().amax(dim=(2, 3))
        residuals.append(change.amax(dim=0))
        states, used, nfe = updated, used + 1, nfe + hi - lo
        if watch is not None:
            watch(states)
        if not pure:
            continue
        lo += 1
        change[lo] = 0.0  # exact, given the states before it, however far this round moved it
        if tolerance is None:
            continue
        settled = safety * change <= tolerance
        if window < steps:
            for state in settled.all(dim=1)[lo + 1 : hi + 1].tolist():
                if not state:
                    break
                lo += 1
        if hi == steps:
            done = settled.all(dim=0)
            if bool(done.all()):
                break
    bound = safety * change.amax(dim=0)
    usable = states[-1].isfinite().all(dim=-1).all(dim=-1) & (pure and hi == steps)
    bound = torch.where(usable, bound, torch.inf)
    certified = bound <= (tolerance or 0.0)
    return SolveResult(states[-1], used, nfe, torch.stack(residuals), certified, bound, states)


def _first_predictions(guess: Tensor | None, like: Tensor) -> Tensor:
    if guess is None:
        return torch.zeros_like(like)
    if guess.shape not in (like.shape, like.shape[1:]):
        raise PcmError(
            f"guess has shape {tuple(guess.shape)}: expected {tuple(like.shape[1:])} "
            f"or {tuple(like.shape)}"
        )
    return guess.to(like).expand_as(like).clone()


def _check(
    steps: int,
    rounds: int | None,
    tolerance: float | None,
    window: int,
    head: Predictor | None,
    strengths: Sequence[float],
) -> None:
    if rounds is None and tolerance is None:
        raise PcmError("give solver.rounds, solver.tolerance or both")
    if rounds is not None and rounds < 1:
        raise PcmError(f"solver.rounds={rounds}: at least one round is needed")
    if window < 1:
        raise PcmError(f"solver.window={window}: at least one state is needed")
    if any(not 0 <= s <= 1 for s in strengths):
        raise PcmError(f"head strengths {tuple(strengths)}: each must lie in [0, 1]")
    if any(strengths) and head is None:
        raise PcmError("head rounds were asked for but this policy has no PCM head")
    if not any(strengths):
        check_reach(steps, rounds, tolerance, window)
