"""What all solvers share: the result, and the affine map itself.

Shapes: ``N`` steps, ``B`` batch, ``T`` horizon, ``Da`` action dimensions. A *round* is one batched
network call on the critical path; *NFE* counts evaluated states per chunk.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.samplers import AffineSampler
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import combine, forcing

__all__ = [
    "SolveResult",
    "Watch",
    "between_nodes",
    "check_reach",
    "coarse_nodes",
    "combine",
    "forcing",
]

Watch = Callable[[Tensor], None]
"""Called with all states ``(N + 1, B, T, Da)`` after every round; must not change them."""


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
