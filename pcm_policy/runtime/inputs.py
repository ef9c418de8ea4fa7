"""What a solve reads, and how it is executed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from pcm_policy.runtime.nested import flatten
from pcm_policy.runtime.precision import certified, require
from pcm_policy.sampling.denoise import Network, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import Iterate, System


@dataclass(frozen=True)
class Inputs:
    """What one solve reads.

    Attributes:
        obs: ``(B, To, Do)`` raw observations on the policy's device.
        noise: all the randomness.
        guess: normalised guess of the clean chunk.
        prefix: actions that are known already.
    """

    obs: Tensor
    noise: Noise
    guess: Tensor | None = None
    prefix: Prefix | None = None

    def present(self) -> list[Tensor]:
        """Return all tensors that there are, in a fixed order."""
        return flatten(self)[0]

    def filled(self, given: Sequence[Tensor]) -> "Inputs":
        """Return the same inputs with other tensors, in the order of :meth:`present`."""
        found: Inputs = flatten(self)[2](iter(given))
        return found

    @property
    def shape(self) -> Any:
        """What a recording is made for."""
        return flatten(self)[1]


class Assemble(Protocol):
    """Makes a solve of what it reads; :meth:`DiffusionPolicy.assemble` does."""

    def __call__(
        self, given: Inputs, solver: Solver, network: Network | None = None
    ) -> tuple[System, Iterate]:
        """Return the system and its first iterate."""


class Execute(Protocol):
    """Executes a solve: :func:`eager`, or a runtime."""

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Return the result, the caller's own."""


def eager(assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
    """Run a solve as it is written.

    Raises:
        PcmError: a tolerance that the policy's own type cannot settle.
    """
    dtype = given.noise.initial.dtype
    require(solver.tolerance, dtype)
    return certified(solver(*assemble(given, solver)), solver, dtype)
