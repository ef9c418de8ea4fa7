"""Coarse to fine: early rounds evaluate few nodes, later ones all that have not settled.

Early iterates are far from the solution at every node. Evaluating a few nodes and interpolating
the predictions in between in log-SNR therefore loses nothing. Late rounds change only the last
states. The solver needs fewer rounds than full-window Picard and half of its network evaluations,
which counts where a batch is not free: on a CPU or an embedded GPU.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Step, after
from pcm_policy.solvers.system import Iterate, Round, System, combine


def coarse_nodes(count: int, lo: int, hi: int, device: torch.device) -> Tensor:
    """Return ``count`` of the nodes ``lo..hi-1``, evenly spread, both ends among them.

    They are computed on the device, ``(count,)`` int64: nothing is copied to it.
    """
    even = torch.arange(count, dtype=torch.float64, device=device) * (hi - 1 - lo)
    return (lo + even / (count - 1)).round().long()


def between_nodes(sampler: AffineSampler, nodes: Tensor, lo: int) -> Tensor:
    """Return ``(N - lo, n)`` weights that interpolate values at ``nodes`` linearly in log-SNR.

    Before the first node and after the last one the nearest value stays.
    """
    if len(nodes) == 1:
        return sampler.alpha.new_ones(sampler.steps - lo, 1)
    # The limits keep the ends finite: pure noise (flow matching) and no noise at all.
    level = (sampler.alpha / sampler.sigma).log().clamp(-10.0, 10.0)
    left, right = nodes[:-1], nodes[1:]
    at = torch.arange(lo, sampler.steps, device=level.device)
    segment = torch.bucketize(at, right).clamp(max=len(nodes) - 2)
    start, end = level[left[segment]], level[right[segment]]
    share = torch.where(end > start, (level[at] - start) / (end - start), 0.0)
    share = share.clamp(0.0, 1.0)[:, None]
    column = torch.arange(len(nodes), device=level.device)
    first, second = column == segment[:, None], column == segment[:, None] + 1
    return torch.where(first, 1 - share, torch.where(second, share, torch.zeros_like(share)))


@STEPS.add("coarse")
@dataclass(frozen=True)
class Coarse(Step):
    """The first rounds at a share of the nodes, then another step.

    Attributes:
        shares: of the nodes that the first rounds of the solve evaluate, at least two; measured
            best for DDIM-32 and DDPM-100.
        then: the step after them.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Coarse, Rounds
        >>> found = policy.predict(obs, solver=Solver(Coarse((0.25, 0.5)), Rounds(4))).solve
        >>> found.nfe < 4 * policy.config.sampler.steps
        True
    """

    shares: tuple[float, ...] = setting((0.25, 0.5), above=0, most=1)
    then: Step = Anderson()

    def early(self) -> int | None:
        """Return the rounds at few nodes and the early rounds of the other step."""
        return after(len(self.shares), self.then)

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Evaluate few nodes and interpolate, or make the other step's round."""
        share = self.shares[x.k] if x.k < len(self.shares) else 1.0
        count = max(2, round(share * s.steps))
        if count >= s.steps - x.lo:
            return self.then.step(s, x, memory)
        nodes = coarse_nodes(count, x.lo, s.steps, x.X.device)
        between = between_nodes(s.denoise.sampler, nodes, x.lo)
        P = torch.cat([x.P[: x.lo], combine(between, x.evaluate(s, nodes))])
        x = replace(x, cold=False)
        return x.base_round(s, P, s.steps, count, full=False), memory
