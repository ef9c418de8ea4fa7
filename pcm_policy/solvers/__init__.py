"""Solvers of ``X = F + M D(X)``: one a file, all with the same result."""

from pcm_policy.solvers.adaptive import adaptive
from pcm_policy.solvers.anderson import anderson
from pcm_policy.solvers.base import SolveResult
from pcm_policy.solvers.coarse import coarse
from pcm_policy.solvers.newton import newton
from pcm_policy.solvers.paradigms import paradigms
from pcm_policy.solvers.picard import picard
from pcm_policy.solvers.sequential import sequential

__all__ = [
    "SolveResult",
    "adaptive",
    "anderson",
    "coarse",
    "newton",
    "paradigms",
    "picard",
    "sequential",
]
