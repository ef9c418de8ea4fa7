"""Networks in another precision, what it can settle, and what that leaves of a certificate."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult

TYPES: Mapping[str, torch.dtype | None] = {
    "float32": None,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""The network's type by ``runtime.precision``; None is the policy's own."""


class LowPrecision(nn.Module):
    """A copy of a network in another type, with inputs and outputs in the caller's."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network: Any = copy.deepcopy(network).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)``, ``(B,)`` and ``(B, C)`` to ``(B, T, Da)`` in the type of ``x``."""
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(...)`` and ``(..., C)`` to ``(..., E)`` in this network's type."""
        encoded: Tensor = self.network.encode(t, cond.to(self.dtype))
        return encoded

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` and ``(B, E)`` to ``(B, T, Da)`` in the type of ``x``."""
        output: Tensor = self.network.decode(x.to(self.dtype), encoded)
        return output.to(x.dtype)


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """Return a network in one of ``TYPES``: itself in ``float32``, else a copy."""
    dtype = TYPES[precision]
    return network if dtype is None else LowPrecision(network, dtype).eval()


def finest(dtype: torch.dtype) -> float:
    """Return the smallest error that a network of a type settles, in normalised action units.

    A network of half precision rounds its states and its output, and differently in a batch of
    another size: two solves of one row differ by about the type's rounding step, ``eps``, whatever
    their rounds. The largest difference among 1,536 rows was 0.9 of it; twice it is kept.

    Example:
        >>> finest(torch.bfloat16), finest(torch.float32)
        (0.015625, 0.0)
    """
    return 2 * torch.finfo(dtype).eps if dtype.itemsize < 4 else 0.0


def precision_of(execute: object, dtype: torch.dtype) -> str:
    """Return the precision of the networks in solves: one of ``TYPES``, or another word.

    Args:
        execute: what executes the solves; a runtime's config says its precision.
        dtype: of the policy's weights.
    """
    config = getattr(execute, "config", None)
    if getattr(config, "tf32", False):
        return "tf32"
    if TYPES.get(named := getattr(config, "precision", "float32")) is not None:
        return str(named)
    own = {torch.float32: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return own.get(dtype, str(dtype)[6:])


def require(error: float | None, dtype: torch.dtype, name: str = "solver.tolerance") -> None:
    """Refuse a tolerance that a type cannot settle.

    Args:
        error: the tolerance; None where there is none.
        dtype: of the network.
        name: what the user calls it.

    Raises:
        PcmError: it is below :func:`finest`.
    """
    least = finest(dtype)
    if error is not None and error < least:
        raise PcmError(
            f"{name}={error:g}: a network in {str(dtype)[6:]} settles no error below {least:g}; "
            "give that tolerance or more, fixed rounds, or a float32 network"
        )


def certified(found: SolveResult, solver: Solver, dtype: torch.dtype) -> SolveResult:
    """Return a result whose bound is no finer than its network's type; sequential ones stay."""
    least = finest(dtype)
    if not least or not solver.step.limits:
        return found
    bound = found.bound.clamp(min=least)
    return replace(found, bound=bound, certified=bound <= solver.stop.error)
