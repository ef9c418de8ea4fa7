"""The one loop behind every solver of the affine system ``X = F + M D(X)``.

A round evaluates the base model at the states of a window at once and re-integrates:
``X <- F + M D(X)``. ``M`` is strictly lower triangular, so every base round makes one more leading
state exact, and ``N`` of them are always enough. Solvers differ in what they put on top: a PCM head
in the first rounds, few nodes in the first rounds, or a correction of the swept states.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, Nodes
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler
from pcm_policy.solvers.deadline import Stop
from tests.oracle.base import (
    SolveResult,
    Watch,
    between_nodes,
    check_reach,
    coarse_nodes,
    combine,
    forcing,
)

Predictor = Callable[[Denoiser, Tensor, Tensor, int, float], Tensor]
"""``(denoise, forced, states, k, strength) -> predictions`` of a PCM round, all ``(N, B, T, Da)``.

It may say in an attribute ``evaluations`` how many states it evaluates, if not all.
"""

SAFETY = 4.0
"""Largest ratio of true error to last base residual that was measured (docs/picard.md)."""


@dataclass(frozen=True)
class Round:
    """What a correction sees of a base round over all states.

    Attributes:
        k: index of the round.
        sampler: the coefficients.
        forced: ``(N + 1, B, T, Da)``, ``F``.
        states: ``(N + 1, B, T, Da)``, ``X`` before the round.
        base: ``(N, B, T, Da)``, ``D(X)``.
        swept: ``(N + 1, B, T, Da)``, ``F + M D(X)``.
    """

    k: int
    sampler: AffineSampler
    forced: Tensor
    states: Tensor
    base: Tensor
    swept: Tensor


Correction = Callable[[Round], Tensor]
"""Proposes the next states ``(N + 1, B, T, Da)``; the rows of a batch must not influence others."""


def iterate(
    denoise: Denoiser,
    noise: Noise,
    *,
    rounds: int | None = None,
    tolerance: float | None = None,
    settle: float | None = None,
    safety: float = SAFETY,
    window: int | None = None,
    guess: Tensor | None = None,
    head: Predictor | None = None,
    strengths: Sequence[float] = (),
    coarse: Sequence[int] = (),
    correct: Correction | None = None,
    stop: Stop | None = None,
    watch: Watch | None = None,
) -> SolveResult:
    """Solve ``X = F + M D(X)`` by parallel rounds.

    With ``tolerance=None`` exactly ``rounds`` rounds run and nothing is read back from the device,
    so that the solve can be captured in a CUDA graph. With a tolerance, a row's leading states stay
    as they are once they have settled, and the whole row once it is certified, so that its result
    does not depend on its batch mates; what has settled in all rows is not evaluated again.

    Args:
        denoise: the base map ``D``, with its sampler.
        noise: all the randomness of the solve.
        rounds: number of rounds, or with a tolerance the largest number; None for no limit.
        tolerance: stop when ``safety`` times the residual of a base round is below this, in
            normalised action units; None for a fixed number of rounds.
        settle: without a tolerance: a row is done when a round has moved its sample by less than
            this, root mean square in normalised action units, and is evaluated no more. That
            proves nothing.
        safety: assumed ratio of the true error to the residual.
        window: largest number of states evaluated in a base round; None for all of them. The
            window slides over states that have settled (or, with fixed rounds, by one).
        guess: ``(B, T, Da)`` or ``(N, B, T, Da)`` guess of the clean chunks; the fixed point does
            not depend on it. None, and NaN in a row of it, is a chunk of zeros.
        head: the PCM, called with what the noise gives and the states, all before the last one.
        strengths: the head's share lambda(k) of round ``k``; base rounds once it is zero or ended.
        coarse: how many nodes the first base rounds evaluate; the predictions in between are
            interpolated in log-SNR. Later rounds evaluate all.
        correct: changes what a base round over all states proposes.
        stop: asked after every round, see :class:`~pcm_policy.solvers.deadline.Deadline`.
        watch: called with all states ``(N + 1, B, T, Da)`` after every round.

    Returns:
        The result; ``certified`` says for which rows the sample is within ``tolerance``.

    Raises:
        PcmError: neither ``rounds`` nor ``tolerance``, too few rounds for the window, ``settle``
            with a tolerance or a window, or a guess of the wrong shape.
    """
    sampler, steps = denoise.sampler, denoise.sampler.steps
    window = steps if window is None else window
    _check(steps, rounds, tolerance, window, head, strengths, coarse)
    if settle is not None and (tolerance is not None or window < steps):
        raise PcmError("solver.settle goes with fixed solver.rounds and no solver.window")
    base_rounds = rounds is None or len(strengths) < rounds or 0.0 in strengths[:rounds]
    if head is None or base_rounds or getattr(head, "evaluations", None) == steps:
        denoise = denoise.encode()
    elif hasattr(head, "nodes"):  # a head with weights of its own has no use for the encoding
        denoise = denoise.encode(head.nodes(denoise)[0])
    forced = forcing(sampler, noise)
    predictions = _first_predictions(guess, forced[1:])
    states = forced + combine(sampler.M, predictions)
    change = torch.zeros_like(states[..., 0, 0])
    lo = hi = used = nfe = based = 0
    at = torch.arange(steps + 1, device=states.device)[:, None]
    front = torch.zeros_like(at[:1].expand(-1, states.shape[1])[0])  # settled states of each row
    done = torch.zeros_like(change[0], dtype=torch.bool)
    row_rounds = torch.zeros_like(front)
    residuals: list[Tensor] = []
    cold, whole = guess is None, False
    open_rows: Tensor | None = None  # that have not settled, once some have
    while lo < steps and (rounds is None or used < rounds):
        if used and stop is not None and stop():
            break
        strength = strengths[used] if used < len(strengths) else 0.0
        pure = head is None or strength == 0.0
        nodes = None
        if head is None or pure:
            hi = min(lo + window, steps)
            if based < len(coarse) and coarse[based] < hi - lo:
                nodes = coarse_nodes(coarse[based], lo, hi)
            based += 1
        if tolerance is not None or settle is not None:
            row_rounds = row_rounds + (~done & (front < steps))
        evaluated = hi - lo if nodes is None else len(nodes)
        before = predictions
        if head is not None and not pure:
            lo, hi, cold = 0, steps, False
            evaluated = getattr(head, "evaluations", None) or steps
            if tolerance is not None:
                front = torch.where(done, steps, torch.zeros_like(front))
            if open_rows is None:
                predictions = head(denoise, forced[:-1], states[:-1], used, strength)
            else:
                some = forced[:-1, open_rows], states[:-1, open_rows]
                found = head(denoise.pick(open_rows), *some, used, strength)
                predictions = predictions.index_copy(1, open_rows, found)
        elif nodes is not None:
            index = torch.tensor(nodes, device=states.device)
            found = _evaluate(denoise, states[index], index, open_rows)
            predictions = torch.cat(
                [predictions[:lo], combine(between_nodes(sampler, nodes, lo), found)]
            )
        else:
            found = _evaluate(denoise, states[lo:hi], slice(lo, hi), open_rows)
            beyond = found[-1:].expand_as(predictions[hi:]) if cold else predictions[hi:]
            predictions = torch.cat([predictions[:lo], found, beyond])
        if tolerance is not None and pure:
            predictions = torch.where((at[:-1] < front)[..., None, None], before, predictions)
        swept = forced + combine(sampler.M, predictions)
        swept[: lo + 1] = states[: lo + 1]
        moved = (swept - states)[lo + 1 : hi + 1].abs().amax(dim=(2, 3))
        if tolerance is None:
            change[lo + 1 : hi + 1] = moved
        else:
            new = at[lo + 1 : hi + 1] > front
            change[lo + 1 : hi + 1] = torch.where(new, moved, change[lo + 1 : hi + 1])
        residuals.append(change.amax(dim=0))
        whole = pure and hi == steps and nodes is None
        updated = swept
        if correct is not None and whole:
            updated = correct(Round(used, sampler, forced, states, predictions, swept))
            updated[: lo + 2] = swept[: lo + 2]
        used, nfe = used + 1, nfe + evaluated
        if pure:
            lo += 1
            # Exact, given the states before it, however far this round moved it.
            if tolerance is None:
                change[lo] = 0.0
            else:
                change = change.masked_fill(at == front + 1, 0.0)
        if tolerance is not None:
            settled = safety * change <= tolerance
            reached = front
            if pure:
                reached = torch.where(done, front, front + 1)
            if pure and nodes is None:
                good = ((settled | (at <= reached)) & (at <= hi)).long().cumprod(dim=0)
                reached = torch.where(done, front, good.sum(dim=0) - 1)
            if whole:
                done = done | settled.all(dim=0)
                reached = torch.where(done, steps, reached)
            # What has just settled is what the base round says, whatever a correction proposed.
            updated = torch.where((at <= reached)[..., None, None], swept, updated)
            updated = torch.where((at <= front)[..., None, None], states, updated)
            front = reached
        if settle is not None:
            updated = torch.where(done[:, None, None], states, updated)
            moved = (updated[-1] - states[-1]).square().mean(dim=(1, 2)).sqrt()
            done = done | (moved <= settle)
            open_rows = (~done).nonzero()[:, 0] if bool(done.any()) else None
        states = updated
        if watch is not None:
            watch(states)
        if tolerance is not None and pure:
            lo = int(front.min())
        if open_rows is not None and not len(open_rows):
            break
    bound = safety * change.amax(dim=0)
    usable = states[-1].isfinite().all(dim=-1).all(dim=-1) & whole
    if settle is not None:
        usable = usable & ~done
    bound = torch.where(usable, bound, torch.inf)
    certified = bound <= (tolerance or 0.0)
    return SolveResult(
        sample=states[-1],
        rounds=used,
        nfe=nfe,
        residuals=torch.stack(residuals),
        certified=certified,
        bound=bound,
        trajectory=states,
        row_rounds=None if tolerance is None and settle is None else row_rounds,
    )


def _evaluate(denoise: Denoiser, x: Tensor, nodes: Nodes, rows: Tensor | None) -> Tensor:
    """Return predictions ``(n, B, T, Da)``; zeros but for ``rows``, if they are given."""
    if rows is None:
        return denoise(x, nodes)
    return torch.zeros_like(x).index_copy(1, rows, denoise.pick(rows)(x[:, rows], nodes))


def _first_predictions(guess: Tensor | None, like: Tensor) -> Tensor:
    if guess is None:
        return torch.zeros_like(like)
    if guess.shape not in (like.shape, like.shape[1:]):
        raise PcmError(
            f"guess has shape {tuple(guess.shape)}: expected {tuple(like.shape[1:])} "
            f"or {tuple(like.shape)}"
        )
    guess = guess.to(like)
    return torch.where(guess.isnan(), 0.0, guess).expand_as(like).clone()


def _check(
    steps: int,
    rounds: int | None,
    tolerance: float | None,
    window: int,
    head: Predictor | None,
    strengths: Sequence[float],
    coarse: Sequence[int],
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
    if any(count < 2 for count in coarse):
        raise PcmError(f"solver.coarse={list(coarse)}: a coarse round needs at least two nodes")
    if coarse and window < steps:
        raise PcmError("solver.coarse spreads its nodes over all states: leave solver.window out")
    if not any(strengths):
        check_reach(steps, rounds, tolerance, window)
