"""What a solve reads, and how it is executed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

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

    def tensors(self) -> list[Tensor | None]:
        """Return all of them, in a fixed order."""
        known = None if self.prefix is None else self.prefix.known
        values = None if self.prefix is None else self.prefix.values
        return [self.obs, self.noise.initial, self.noise.steps, self.guess, values, known]

    def present(self) -> list[Tensor]:
        """Return those that there are."""
        return [value for value in self.tensors() if value is not None]

    def filled(self, given: Sequence[Tensor]) -> "Inputs":
        """Return the same inputs with other tensors, in the order of :meth:`present`."""
        rest = iter(given)
        found = [None if value is None else next(rest) for value in self.tensors()]
        obs, initial, steps, guess, values, known = found
        assert obs is not None
        assert initial is not None
        prefix = self.prefix
        if prefix is not None:
            assert values is not None
            assert known is not None
            prefix = replace(prefix, values=values, known=known)
        return Inputs(obs, Noise(initial, steps), guess, prefix)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a recording is made for."""
        over = self.prefix is not None and self.prefix.overwrite_input
        shapes = tuple(None if t is None else tuple(t.shape) for t in self.tensors())
        return (over, *shapes)


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
