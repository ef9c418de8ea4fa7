"""Quasi-Newton rounds: the denoiser's mean Jacobian, measured once, is inverted with the system.

A round costs one batched network call and one more matrix product than a Picard round. The fixed
point does not depend on the Jacobian. See :class:`~pcm_policy.solvers.jacobian.Jacobian`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.loop import rounds, start
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import Rounds
from pcm_policy.solvers.system import Iterate, Round, System, changed, within


@STEPS.add("linearised")
@dataclass(frozen=True)
class Newton(Step):
    """Linearise the base with its mean Jacobian, and solve that system in every round.

    Attributes:
        inner: the step whose predictions are used.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> solver = policy.solver({"method": "newton", "tolerance": 1e-3})  # measures the Jacobian
        >>> solver.step.inner
        Newton(inner=Picard(window=None))
        >>> policy.predict(obs, solver=solver).solve.certified.tolist()
        [True]
    """

    inner: Step = Picard()
    needs: ClassVar[frozenset[str]] = frozenset({"jacobian"})

    def init(self, s: System) -> Any:
        """Return the inner step's memory.

        Raises:
            PcmError: the Jacobian has not been measured.
        """
        if s.jacobian is None:
            raise PcmError(
                "solver=newton needs the base's mean Jacobian: call policy.calibrate(observations, "
                "sampler) first, or use solver=anderson"
            )
        return self.inner.init(s)

    def early(self) -> int | None:
        """As the inner step."""
        return self.inner.early()

    def step(self, s: System, x: Iterate, memory: Any) -> tuple[Round, Any]:
        """Make the inner step's round, then solve the linearised system and sweep."""
        assert s.jacobian is not None
        r, memory = self.inner.step(s, x, memory)
        if r.whole:
            r = changed(r, X=s.sweep(s.jacobian.predict(r.P, s.F[:-1], x.X[:-1])))
        return r, memory


@STEPS.add("newton")
@dataclass(frozen=True)
class MixedNewton(Anderson):
    """Quasi-Newton rounds, extrapolated: what ``solver=newton`` means.

    Attributes:
        inner: the step whose rounds are extrapolated.

    Example:
        >>> MixedNewton().memory, MixedNewton().inner
        (2, Newton(inner=Picard(window=None)))
    """

    inner: Step = Newton()


@torch.no_grad()
def mean_jacobian(denoise: Denoiser, noise: Noise, count: int = 8) -> Tensor:
    """Measure the diagonal Jacobian of ``D`` by secants of Picard iterates to the exact trajectory.

    The measurement is a regression over the batch. Every iterate is weighted by one over its
    squared distance, so that no iterate dominates.

    Args:
        denoise: the base map, with conditions that are not used for measuring errors later.
        noise: as many rows.
        count: Picard iterates that are used; the first is left out, being far from linear.

    Returns:
        ``(N, T, Da)``.
    """
    exact = sequential(denoise, noise).trajectory[:-1]
    target = denoise(exact, slice(0, denoise.sampler.steps))
    over, under = torch.zeros_like(target[:, 0]), torch.zeros_like(target[:, 0])
    s, x = start(denoise, noise)
    for r, _, _ in rounds(s, x, Picard(), Rounds(count)):
        if r.before.k == 0:
            continue
        off = r.before.X[:-1] - exact
        weight = 1.0 / (off.square().mean(dim=(0, *within(off, 2)), keepdim=True) + 1e-6)
        over = over + (weight * off * (r.P - target)).sum(dim=1)
        under = under + (weight * off.square()).sum(dim=1)
    return over / (under + 1e-9)
