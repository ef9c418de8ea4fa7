"""What heads that correct the base at few nodes share: the round, the nodes, the Jacobian."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.heads.base import Head
from pcm_policy.sampling.denoise import Denoiser, Nodes, at_nodes
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler
from pcm_policy.solvers.coarse import between_nodes, coarse_nodes
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.newton import mean_jacobian
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.system import Iterate, System, combine, within

FLOOR = 1e-3
"""Least scale of a correction, in normalised units."""
LIMIT = 10.0
"""Clamp of a round's predictions, in normalised units: off the training data the correction can
diverge."""


class FewNodes(Head):
    """Base predictions at few nodes, a quasi-Newton step from them, and a learned correction.

    A head of this kind implements ``_correct``.
    """

    adds_to_base: ClassVar[bool] = True

    def __init__(
        self,
        steps: int,
        shape: tuple[int, ...],
        nodes: int | Sequence[int] | None,
        newton: bool,
    ) -> None:
        """Take the sampler's ``N``, a chunk's shape, and what the arguments of the heads say.

        Raises:
            PcmError: nodes that the sampler does not have, or that do not ascend.
        """
        super().__init__()
        self.placed = placed(nodes, steps) if isinstance(nodes, Sequence) else None
        count = len(nodes) if isinstance(nodes, Sequence) else nodes
        self.evaluations = steps if count is None else min(count, steps)
        self._spread: tuple[AffineSampler, Tensor, Tensor] | None = None
        self._jacobian: tuple[AffineSampler, Jacobian] | None = None
        self.diagonal: Tensor | None
        self.register_buffer("diagonal", torch.zeros(steps, *shape) if newton else None)
        self.bend: Tensor | None
        self.register_buffer("bend", torch.zeros(steps, self.evaluations) if newton else None)

    @abstractmethod
    def _correct(
        self, denoise: Denoiser, states: Tensor, base: Tensor, residual: Tensor, rounds: Tensor
    ) -> Tensor:
        """Return what is added to the predictions at the nodes, ``(n, B, T, Da)``.

        Args:
            denoise: the map ``D``, with its condition.
            states: ``(n, B, T, Da)``.
            base: predictions without the head, likewise.
            residual: ``F + M P - X`` of these predictions, likewise.
            rounds: ``(B,)`` int64, the round that every row is in.
        """

    def forward(self, s: System, x: Iterate, share: float, base: Tensor | None = None) -> Tensor:
        """Predict the clean chunks of one PCM round; see :meth:`Head.forward`."""
        (nodes, between), states = self.nodes(s.denoise.sampler), x.X[:-1]
        seen = at_nodes(states, nodes)
        if base is None:
            with torch.no_grad():
                base = s.denoise(seen, nodes)
        found = self.base_predictions(s, x, base)
        residual = s.F[:-1] + combine(s.denoise.sampler.M[:-1], found) - states
        predicted, left = at_nodes(found, nodes), at_nodes(residual, nodes)
        correction = self._correct(s.denoise, seen, predicted, left, x.round_of_rows())
        if between is not None:
            correction = combine(between, correction)
        return (found + share * correction).clamp(-LIMIT, LIMIT)

    def jacobian(self, sampler: AffineSampler) -> Jacobian | None:
        """Return the base's mean Jacobian on a sampler; None if the head has none."""
        if self.diagonal is None:
            return None
        if self._jacobian is None or self._jacobian[0] is not sampler:
            with torch.inference_mode(False), torch.no_grad():
                self._jacobian = sampler, Jacobian.of(sampler, self.diagonal)
        return self._jacobian[1]

    def _load_from_state_dict(self, *args: Any) -> None:
        self._jacobian = self._spread = None  # they were the former weights'
        super()._load_from_state_dict(*args)

    @torch.no_grad()
    def calibrate(self, denoise: Denoiser, noise: Noise) -> None:
        """Measure the base on some observations, if the head takes quasi-Newton steps.

        Two things are measured: the Jacobian, and the weights that interpolate predictions between
        the nodes. The weights are a least-squares fit to sequential trajectories, stored as the
        difference to linear interpolation.
        """
        self._jacobian = self._spread = None
        if self.diagonal is None or self.bend is None:
            return
        self.diagonal.copy_(mean_jacobian(denoise, noise))
        self.bend.zero_()
        nodes, between = self.nodes(denoise.sampler)
        if between is None:
            return
        states = sequential(denoise, noise).trajectory[:-1]
        clean = denoise(states, slice(0, denoise.sampler.steps)).flatten(1).double()
        seen, left = clean[nodes], clean - between.double() @ clean[nodes]
        gram = seen @ seen.T
        ridge = 1e-7 * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        self.bend.copy_(torch.linalg.solve(gram + ridge, seen @ left.T).T)
        self._spread = None

    def nodes(self, sampler: AffineSampler) -> tuple[Nodes, Tensor | None]:
        """Return the evaluated nodes, and ``(N, n)`` weights that spread their values over all."""
        count, device = self.evaluations, sampler.alpha.device
        if count == sampler.steps:
            return slice(0, count), None
        if self._spread is None or self._spread[0] is not sampler:
            with torch.inference_mode(False), torch.no_grad():
                index = (
                    coarse_nodes(count, 0, sampler.steps, device)
                    if self.placed is None
                    else torch.tensor(self.placed, device=device)
                )
                weights = between_nodes(sampler, index, 0)
                weights = weights if self.bend is None else weights + self.bend
            self._spread = sampler, index, weights
        return self._spread[1:]


def placed(nodes: Sequence[int], steps: int, option: str = "nodes") -> tuple[int, ...]:
    """Return nodes that were named one by one.

    Args:
        nodes: indices of states, ascending: the noisiest first.
        steps: ``N``.
        option: of the head that names them, for the message.

    Raises:
        PcmError: none, one twice, one that is out of order, or one of ``N`` or more.
    """
    if not nodes or sorted(set(nodes)) != list(nodes) or not 0 <= nodes[0] <= nodes[-1] < steps:
        raise PcmError(
            f"head.options.{option}={list(nodes)}: name states from 0 to {steps - 1}, ascending"
        )
    return tuple(nodes)


def scale_of(residual: Tensor) -> Tensor:
    """Return the root mean square of a row's residual ``(n, B, T, Da)``, as ``(1, B, 1, 1)``."""
    return residual.square().mean(dim=(0, *within(residual, 2)), keepdim=True).sqrt() + FLOOR
