"""Checks of the other inputs of a prediction: noise, guesses, known actions."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcm_policy.checks import numbers
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import Noise


def check_noise(config: PolicyConfig, noise: Any, batch: int, steps: int) -> None:
    """Refuse noise that is not of a batch's shapes.

    Args:
        config: of the policy.
        noise: what was given, or None.
        batch: rows of the solve.
        steps: steps of the sampler that add noise; 0 for a deterministic one.

    Raises:
        PcmError: another type or shape, or a value that is not finite.
    """
    if noise is None:
        return
    if not isinstance(noise, Noise):
        raise PcmError(f"noise is {type(noise).__name__}: give a Noise, or None to draw it")
    shape = (batch, *config.chunk_shape)
    _tensor("noise.initial", noise.initial, [shape])
    if steps:
        _tensor("noise.steps", noise.steps, [(steps, *shape)])
    for part in (noise.initial, noise.steps):
        if part is not None and not bool(part.isfinite().all()):
            raise PcmError("noise is not finite")


def check_guess(config: PolicyConfig, guess: Any, batch: int, steps: int) -> None:
    """Refuse a guess of the chunk that is not of a batch's shape; a NaN row starts cold.

    Args:
        config: of the policy.
        guess: what was given, or None.
        batch: rows of the solve.
        steps: denoising steps of the sampler.

    Raises:
        PcmError: another type or shape.
    """
    if guess is not None:
        shape = (batch, *config.chunk_shape)
        _tensor("guess", guess, [shape, (steps, *shape)])


def check_prefix(config: PolicyConfig, prefix: Any, batch: int) -> None:
    """Refuse known actions that are not of a batch's shape.

    Raises:
        PcmError: another type or shape.
    """
    if prefix is None:
        return
    if not isinstance(prefix, Prefix):
        raise PcmError(f"prefix is {type(prefix).__name__}: make one with policy.known_prefix")
    rows = {batch, 1}
    if prefix.values.shape[0] not in rows or prefix.values.shape[1] != config.horizon:
        raise PcmError(
            f"prefix has shape {tuple(prefix.values.shape)}: give one of {batch} rows and "
            f"{config.horizon} steps"
        )


def check_previous(config: PolicyConfig, previous: Any, batch: int) -> None:
    """Refuse last actions that are not of a batch's shape, or not finite.

    Raises:
        PcmError: no numbers, another shape, or a value that is not finite.
    """
    if previous is None:
        return
    given, shape = numbers("previous", previous), (batch, config.action_dim)
    if given.shape != shape or not np.isfinite(given).all():
        raise PcmError(
            f"previous has shape {given.shape}: give the actions executed last, {shape} and finite"
        )


def _tensor(name: str, value: Any, shapes: list[tuple[int, ...]]) -> None:
    wanted = " or ".join(str(shape) for shape in shapes)
    if not isinstance(value, Tensor) or not torch.is_floating_point(value):
        raise PcmError(f"{name} is {type(value).__name__}: give a tensor of numbers, {wanted}")
    if tuple(value.shape) not in shapes:
        raise PcmError(f"{name} has shape {tuple(value.shape)}: this solve takes {wanted}")
