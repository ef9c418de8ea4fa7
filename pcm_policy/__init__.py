"""Diffusion policies whose denoising runs in a few parallel rounds.

Shapes, everywhere: ``B`` batch, ``N`` denoising steps, ``W`` window, ``K`` rounds, ``T`` prediction
horizon, ``To`` observed and ``Ta`` executed steps, ``Do`` and ``Da`` dimensions. State 0 of a
trajectory is noise, state ``N`` the action chunk.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits

if TYPE_CHECKING:
    from pcm_policy.policy.config import PolicyConfig
    from pcm_policy.policy.policy import DiffusionPolicy, Prediction
    from pcm_policy.runtime.config import RuntimeConfig
    from pcm_policy.solvers.registry import Solver

__all__ = [
    "ActionLimits",
    "DiffusionPolicy",
    "PcmError",
    "PolicyConfig",
    "Prediction",
    "RuntimeConfig",
    "Solver",
]
# These need torch, which a robot that talks to a policy server does not have.
_LAZY = {
    "DiffusionPolicy": "pcm_policy.policy.policy",
    "PolicyConfig": "pcm_policy.policy.config",
    "Prediction": "pcm_policy.policy.policy",
    "RuntimeConfig": "pcm_policy.runtime.config",
    "Solver": "pcm_policy.solvers.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
