"""The former loop, until the present one takes its place."""

from pcm_policy.solvers.before.adaptive import adaptive
from pcm_policy.solvers.before.anderson import anderson
from pcm_policy.solvers.before.base import SolveResult
from pcm_policy.solvers.before.coarse import coarse
from pcm_policy.solvers.before.newton import newton
from pcm_policy.solvers.before.paradigms import paradigms
from pcm_policy.solvers.before.picard import picard
from pcm_policy.solvers.before.sequential import sequential

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
