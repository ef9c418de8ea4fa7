"""How ``X = F + M D(X)`` is solved: a step makes a round, a stop ends them, one loop runs both."""

from pcm_policy.solvers.adaptive import Adaptive
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.coarse import Coarse
from pcm_policy.solvers.loop import advance, rounds, solve, start
from pcm_policy.solvers.newton import Newton
from pcm_policy.solvers.paradigms import Paradigms
from pcm_policy.solvers.pcm import PCM
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.result import Ended, SolveResult
from pcm_policy.solvers.sequential import Sequential
from pcm_policy.solvers.step import STEPS, Step
from pcm_policy.solvers.stops import Rounds, Settle, Stop, Tolerance
from pcm_policy.solvers.subspace import Subspace
from pcm_policy.solvers.system import Iterate, Round, System

__all__ = [
    "PCM",
    "STEPS",
    "Adaptive",
    "Anderson",
    "Coarse",
    "Ended",
    "Iterate",
    "Newton",
    "Paradigms",
    "Picard",
    "Round",
    "Rounds",
    "Sequential",
    "Settle",
    "SolveResult",
    "Step",
    "Stop",
    "Subspace",
    "System",
    "Tolerance",
    "advance",
    "rounds",
    "solve",
    "start",
]
