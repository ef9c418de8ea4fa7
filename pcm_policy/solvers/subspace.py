"""Newton rounds in a subspace: the base's Jacobian at the iterate, along smooth changes of a chunk.

A round evaluates ``D`` at all states and, in the same network call, at a few states that are moved
a little along each of a few directions. The differences are columns of the Jacobian there. With
them the system is linearised where the iterate is, and solved. Errors of a Picard iterate are
smooth in time, so a few cosines for every number of an action find most of what the whole Jacobian
would: see docs/solvers.md. The fixed point does not depend on the directions.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import at_nodes
from pcm_policy.solvers.coarse import between_nodes, coarse_nodes
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import Stop
from pcm_policy.solvers.system import Iterate, Round, System, changed, combine

MOVED = 0.05
"""Length of the moves that differences are taken over, in normalised units."""


Probes = tuple[Tensor, Tensor, Tensor, Tensor]
"""The memory: directions ``(k, T, Da)``, orthonormal; the nodes ``(m,)`` int64 whose states are
moved; all nodes of a round ``(N + m k,)``, the moved ones last; weights ``(N, m)`` that interpolate
Jacobians at the moved ones, in log-SNR."""


@STEPS.add("subspace")
@dataclass(frozen=True)
class Subspace(Step):
    """Linearise the base along smooth directions, and solve that system in every round.

    A round of a sampler of ``N`` steps is one network call of ``N + nodes * modes * Da`` rows for
    every row of the batch. It pays where so large a call takes hardly longer, as on a GPU.

    Attributes:
        modes: cosines in time, from the slowest one up, for every number of an action.
        nodes: states at which the Jacobian is taken; it is interpolated in between.

    Example:
        >>> import numpy as np
        >>> from pcm_policy import DiffusionPolicy, Solver
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> obs = np.full((2, 20), 256.0)
        >>> from pcm_policy.solvers import Subspace, Tolerance
        >>> found = policy.predict(obs, solver=Solver(Subspace(), Tolerance(error=1e-3))).solve
        >>> found.certified.tolist()
        [True]
    """

    modes: int = setting(4, int, least=1)
    nodes: int = setting(12, int, least=2)

    def ready(self, s: System, stop: Stop) -> System:
        """Refuse samples that are no chunks of actions.

        Raises:
            PcmError: a sample is not ``(T, Da)``.
        """
        if s.F.ndim != 4:
            raise PcmError(
                f"solver=subspace solves chunks (T, Da), not samples {tuple(s.F.shape[2:])}: use "
                "solver=anderson"
            )
        return super().ready(s, stop)

    def init(self, s: System) -> Probes:
        """Return the directions and where they are tried."""
        horizon, width = s.F.shape[2:]
        if s.steps == 1:
            at, between = torch.arange(1, device=s.F.device), torch.ones_like(s.F[:1, 0, :1, 0])
        else:
            at = coarse_nodes(min(self.nodes, s.steps), 0, s.steps, s.F.device)
            between = between_nodes(s.denoise.sampler, at, 0)
        cosines = smooth(horizon, min(self.modes, horizon), s.F)
        eye = torch.eye(width, dtype=s.F.dtype, device=s.F.device)
        directions = (cosines[:, None, :, None] * eye[None, :, None]).flatten(0, 1)
        every = torch.arange(s.steps, device=s.F.device)
        nodes = torch.cat([every, at.repeat_interleave(len(directions))])
        return directions, at, nodes, between

    def early(self) -> int:
        """Return 0, because all rounds are alike."""
        return 0

    def step(self, s: System, x: Iterate, memory: Probes) -> tuple[Round, Probes]:
        """Evaluate all states and the moved ones, solve the linearised system, and sweep."""
        (directions, at, nodes, between), states = memory, x.X[:-1]
        moved = at_nodes(states, at)[:, None] + MOVED * directions[None, :, None]
        found = x.evaluate(s, nodes, torch.cat([states, moved.flatten(0, 1)]))
        P = torch.cat([x.P[: x.lo], found[x.lo : s.steps]])  # what is final stays as it is
        r = x.base_round(s, P, s.steps, len(nodes))
        columns = (found[s.steps :].view_as(moved) - at_nodes(found, at)[:, None]) / MOVED
        P = linear(s, r.P, states, directions, combine(between, columns))
        return changed(r, X=s.sweep(P)), memory


def smooth(length: int, count: int, like: Tensor) -> Tensor:
    """Return ``(count, length)`` orthonormal cosines, the slowest first (DCT-II)."""
    time = torch.arange(length, dtype=like.dtype, device=like.device) + 0.5
    number = torch.arange(count, dtype=like.dtype, device=like.device)[:, None]
    waves = (math.pi / length * number * time).cos()
    found: Tensor = waves / waves.norm(dim=1, keepdim=True)
    return found


def linear(s: System, D: Tensor, X: Tensor, directions: Tensor, columns: Tensor) -> Tensor:
    """Solve ``P = D + J (F + M P - X)``, where ``J`` acts along some directions alone.

    ``M`` is strictly triangular, so the states are solved one after another, each in the few
    numbers that say how far it moves along the directions.

    Args:
        s: the system.
        D: ``(N, B, T, Da)``, ``D(X)``.
        X: ``(N, B, T, Da)``, the states that it was evaluated at.
        directions: ``(k, T, Da)``, orthonormal.
        columns: ``(N, k, B, T, Da)``, ``J`` times each direction.

    Returns:
        ``(N, B, T, Da)``, the predictions ``P``.
    """
    M = s.denoise.sampler.M[:-1]
    along = torch.einsum("nbta,kta->nbk", s.F[:-1] + combine(M, D) - X, directions)
    coupled = torch.einsum("lta,nkbta->nblk", directions, columns)
    for j in range(len(D)):  # `along[j]` is final by now
        passed_on = coupled[j] @ along[j, ..., None]
        along = along + M[:, j, None, None] * passed_on[..., 0]
    return D + torch.einsum("nkbta,nbk->nbta", columns, along)
