"""ParaDiGMS: Picard iteration on increments, the published baseline.

Shih et al. 2023, Algorithm 1: every round evaluates a window of states, and each state becomes the
window's first state plus the sum of the increments ``step(x_i) - x_i`` so far. The linear part of
the sampler is iterated too, which is why it needs many more rounds than the affine form. (The paper
scales its tolerance by each step's variance, which is zero at the last one; here it is the same for
all, row by row.)
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.step import STEPS
from pcm_policy.solvers.stops import Stop, Tolerance
from pcm_policy.solvers.system import Iterate, Round, System, changed, wide

Memory = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""States to start from; a step's decay, gain and noise, ``(N, ...)``; no noise where it has none.
"""


@STEPS.add("paradigms")
@dataclass(frozen=True)
class Paradigms(Picard):
    """Sum increments over a window. All states start from the noise; a guess is not used.

    Attributes:
        window: largest number of states evaluated in a round; None for all.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Paradigms, Tolerance
        >>> solver = Solver(Paradigms(), Tolerance(error=1e-3, safety=1.0))
        >>> found = policy.predict(obs, solver=solver).solve
        >>> found.certified.tolist()
        [True]
    """

    limits: ClassVar[tuple[str, ...]] = ("rounds", "tolerance")
    usual: ClassVar[Stop] = Tolerance(safety=1.0)
    """As published: a state has settled when it moves by less than the tolerance."""

    def check(self, sampler: AffineSampler) -> None:
        """Say whether the sampler has increments.

        Raises:
            PcmError: its steps use earlier predictions.
        """
        if not sampler.one_step:
            raise PcmError(
                "solver=paradigms iterates on one-step increments and this sampler's steps use "
                "earlier predictions: use solver=picard, or sampler=ddim (flow_euler for a flow)"
            )

    def ready(self, s: System, stop: Stop) -> System:
        """Check that the sampler has increments, and that the window reaches the chunk.

        Raises:
            PcmError: it has none, or the window does not.
        """
        self.check(s.denoise.sampler)
        return super().ready(s, stop)

    def early(self) -> int | None:
        """Return None: a round needs every state before its window."""
        return None

    def init(self, s: System) -> Memory:
        """Return the states to start from, which are the noise, and the parts of a step."""
        a, like, kicks = s.denoise.sampler, s.F[1:], None
        if a.stochastic and s.noise.steps is not None:
            kicks = wide(a.noise, like) * s.noise.steps[: s.steps]
        return s.F[:1].expand_as(s.F), wide(a.decay, like), wide(a.gain, like), kicks

    def step(self, s: System, x: Iterate, memory: Memory) -> tuple[Round, Memory]:
        """Sum the increments of the window's states."""
        start, decay, gain, kicks = memory
        x = changed(x, X=start) if x.k == 0 else x
        hi = min(x.lo + (self.window or s.steps), s.steps)
        nodes = slice(x.lo, hi)
        clean, now = x.evaluate(s, nodes), x.X[nodes]
        moved = (decay[nodes] * now).add_(gain[nodes] * clean)
        if kicks is not None:
            moved += kicks[nodes]
        states = x.X[x.lo] + moved.sub_(now).cumsum(dim=0)
        parts = [x.X[: x.lo + 1], states]
        if hi < s.steps:
            parts.append(states[-1:].expand_as(x.X[hi + 1 :]))
        X, whole = torch.cat(parts), hi == s.steps
        # The predictions are not kept: no round sweeps them, and rows that end keep their states.
        return Round(x, x.P, X, X, hi, hi - x.lo, exact=1, full=True, whole=whole), memory
