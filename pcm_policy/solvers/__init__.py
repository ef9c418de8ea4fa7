"""Solvers of ``X = F + M D(X)``: one a file, all with the same result."""

from pcm_policy.solvers.base import SolveResult
from pcm_policy.solvers.paradigms import paradigms
from pcm_policy.solvers.picard import picard
from pcm_policy.solvers.sequential import sequential

__all__ = ["SolveResult", "paradigms", "picard", "sequential"]
