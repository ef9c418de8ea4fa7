"""The base's mean Jacobian, inverted with a sampler's system."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.sampling.affine import AffineSampler

DAMPING = 0.8
"""Share of the mean Jacobian that is used: the rounds count is flat around it."""


@dataclass(frozen=True)
class Jacobian:
    """The mean diagonal Jacobian of ``D``, inverted with a sampler's system.

    Linearise ``D`` at the current states with a diagonal Jacobian ``C_j`` (one number for every
    step and dimension of the chunk, the mean over observations): ``P = D(X) + C (X' - X)`` with
    ``X' = F + M P`` is linear and triangular in ``P``: ``P = (I - C M)^{-1} (D(X) + C (F - X))``.

    Attributes:
        diagonal: ``(N, T, Da)``, damped.
        inverse: ``(T * Da, N, N)``, ``(I - C M)^{-1}`` of every entry of the chunk.
    """

    diagonal: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, sampler: AffineSampler, diagonal: Tensor, damping: float = DAMPING) -> "Jacobian":
        """Invert the system once, in float64."""
        C = (damping * diagonal.double()).flatten(1).T[..., None]
        eye = torch.eye(sampler.steps, dtype=C.dtype, device=C.device)
        inverse = torch.linalg.inv(eye - C * sampler.M[:-1].double())
        return cls(damping * diagonal, inverse.to(diagonal.dtype))

    def predict(self, base: Tensor, forced: Tensor, states: Tensor) -> Tensor:
        """Return the predictions ``(N, B, T, Da)`` that solve the linearised system.

        Args:
            base: ``(N, B, T, Da)``, ``D(X)``.
            forced: ``(N, B, T, Da)``, ``F`` of the same states.
            states: ``(N, B, T, Da)``, ``X``.
        """
        right = base + self.diagonal[:, None] * (forced - states)
        flat = right.flatten(2).permute(2, 0, 1)
        return (self.inverse @ flat).permute(1, 2, 0).reshape(right.shape)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "Jacobian":
        """Return a copy on ``device`` in ``dtype``."""
        return Jacobian(self.diagonal.to(device, dtype), self.inverse.to(device, dtype))
