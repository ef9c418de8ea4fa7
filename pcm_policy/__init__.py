"""Diffusion policies whose denoising runs in a few parallel rounds.

Shapes, everywhere: ``B`` batch, ``N`` denoising steps, ``W`` window, ``K`` rounds, ``T`` prediction
horizon, ``To`` observed and ``Ta`` executed steps, ``Do`` and ``Da`` dimensions. State 0 of a
trajectory is noise, state ``N`` the action chunk.
"""

from pcm_policy.errors import PcmError
from pcm_policy.limits import ActionLimits
from pcm_policy.policy import DiffusionPolicy, PolicyConfig, Prediction
from pcm_policy.solve import SolverConfig

__all__ = [
    "ActionLimits",
    "DiffusionPolicy",
    "PcmError",
    "PolicyConfig",
    "Prediction",
    "SolverConfig",
]
