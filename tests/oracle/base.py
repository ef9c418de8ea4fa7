"""What all solvers share: the result, and the affine map itself.

Shapes: ``N`` steps, ``B`` batch, ``T`` horizon, ``Da`` action dimensions. A *round* is one batched
network call on the critical path; *NFE* counts evaluated states per chunk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler

Watch = Callable[[Tensor], None]
"""Called with all states ``(N + 1, B, T, Da)`` after every round; must not change them."""


@dataclass(frozen=True)
class SolveResult:
    """One solve of ``X = F + M D(X)``.

    Attributes:
        sample: ``(B, T, Da)`` action chunk, the last state.
        rounds: batched network calls, one after another.
        nfe: network evaluations per chunk, of the row that took most rounds.
        residuals: ``(rounds, B)`` largest change that each round made anywhere on the trajectory,
            in normalised action units. Only a round of the base model alone says something about
            the distance to the sequential sample.
        certified: ``(B,)`` bool: the sample is the sequential sampler's, either because enough
            base rounds prove it or because the last base round's residual, times the safety
            factor, is within the tolerance.
        bound: ``(B,)`` that residual times that factor: the estimated largest error of the sample,
            in normalised action units. Zero where it is proven, infinite where the last round was
            not one of the base model over all states.
        trajectory: ``(N + 1, B, T, Da)`` all states.
        chunk: ``(B, T, Da)`` float32, the sample in raw units, where a policy solved.
        row_rounds: ``(B,)`` int64, rounds until each row was done, where rows stop by themselves:
            what a solve of that row alone would have taken.
    """

    sample: Tensor
    rounds: int
    nfe: int
    residuals: Tensor
    certified: Tensor
    bound: Tensor
    trajectory: Tensor
    chunk: Tensor | None = None
    row_rounds: Tensor | None = None


def forcing(sampler: AffineSampler, noise: Noise) -> Tensor:
    """Return ``F = p x_0 + S z``, shape ``(N + 1, B, T, Da)``: what the noise alone gives.

    Raises:
        PcmError: the sampler is stochastic and the noise for its steps is missing or too short.
    """
    start = sampler.p.view(-1, 1, 1, 1) * noise.initial
    if not sampler.stochastic:
        return start
    if noise.steps is None or noise.steps.shape[0] < sampler.steps:
        have = 0 if noise.steps is None else noise.steps.shape[0]
        raise PcmError(
            f"a stochastic sampler of {sampler.steps} steps needs as many step noises, got {have}"
        )
    return start + combine(sampler.S, noise.steps[: sampler.steps])


def combine(weights: Tensor, chunks: Tensor) -> Tensor:
    """Mix chunks: ``(r, c)`` weights times ``(c, B, T, Da)`` chunks is ``(r, B, T, Da)``."""
    return (weights @ chunks.flatten(1)).view(weights.shape[0], *chunks.shape[1:])


def coarse_nodes(count: int, lo: int, hi: int) -> list[int]:
    """Return ``count`` of the nodes ``lo..hi-1``, evenly spread, both ends among them."""
    return sorted({round(lo + i * (hi - 1 - lo) / (count - 1)) for i in range(count)})


def between_nodes(sampler: AffineSampler, nodes: list[int], lo: int) -> Tensor:
    """Return ``(N - lo, n)`` weights that interpolate values at ``nodes`` linearly in log-SNR.

    The first node is ``lo`` and the last is ``N - 1``.
    """
    # The limits keep the ends finite: pure noise (flow matching) and no noise at all.
    level = (sampler.alpha / sampler.sigma).log().clamp(-10.0, 10.0)
    left = torch.tensor(nodes[:-1], device=level.device)
    right = torch.tensor(nodes[1:], device=level.device)
    at = torch.arange(lo, sampler.steps, device=level.device)
    segment = torch.bucketize(at, right).clamp(max=len(nodes) - 2)
    start, end = level[left[segment]], level[right[segment]]
    share = torch.where(end > start, (level[at] - start) / (end - start), 0.0)[:, None]
    column = torch.arange(len(nodes), device=level.device)
    first, second = column == segment[:, None], column == segment[:, None] + 1
    return torch.where(first, 1 - share, torch.where(second, share, torch.zeros_like(share)))


def check_reach(steps: int, rounds: int | None, tolerance: float | None, window: int) -> None:
    """Refuse fixed rounds whose window, sliding by one a round, never reaches the last state."""
    if tolerance is None and rounds is not None and rounds - 1 + window < steps:
        raise PcmError(
            f"solver.rounds={rounds} with solver.window={window} never reaches the last of {steps} "
            "states: use more rounds, a larger window, or a tolerance"
        )
