"""What a network's precision can settle, and what that leaves of a certificate."""

from dataclasses import replace

import torch

from pcm_policy.errors import PcmError
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult


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
