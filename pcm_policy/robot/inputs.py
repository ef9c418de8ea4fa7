"""Checks of what a robot's policy is given: observations, noise, guesses, known actions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.checks import numbers
from pcm_policy.control.plan import Actions, Image
from pcm_policy.control.safety import frame_fault
from pcm_policy.control.settings import PolicySpec
from pcm_policy.draws import Draws
from pcm_policy.errors import PcmError
from pcm_policy.fields import join_fields, read_observation
from pcm_policy.robot.memory import Floats


def observed(
    spec: PolicySpec, obs: ArrayLike | Mapping[str, ArrayLike]
) -> tuple[Floats, list[dict[str, Image]]]:
    """Return the numbers of a raw observation, ``(To, n)``, and the images of each of its frames.

    Args:
        spec: shapes and ranges of the policy.
        obs: ``(To, Do)`` or ``(1, To, Do)``, oldest frame first; or a dictionary of the entries
            that ``spec.obs_fields`` name. With cameras the dictionary that
            :func:`pcm_policy.fields.read_observation` describes.

    Raises:
        PcmError: another shape or type, no numbers, a value that is not finite or far outside
            training; or several observations.
    """
    if spec.cameras:
        array, images = read_observation(obs, spec.obs_dim, spec.cameras, spec.obs_steps)
        frames = [{k: v[0, step] for k, v in images.items()} for step in range(spec.obs_steps)]
    else:
        given = join_fields(obs, spec.obs_fields) if isinstance(obs, Mapping) else obs
        array, frames = numbers("observation", given), []
    array = array[0] if array.ndim == 3 and len(array) == 1 else array
    want = (spec.obs_steps, spec.obs_dim)
    if array.shape != want:
        raise PcmError(
            f"observation has shape {array.shape}: this policy takes (To, Do) = {want}, one "
            "observation at a time"
        )
    for step, frame in enumerate(array):
        fault = frame_fault(frame, spec)
        if fault is not None:
            raise PcmError(f"step {step}: {fault}")
    return np.ascontiguousarray(array, np.float32), frames


def drawn(noise: Any, chunk: tuple[int, int], steps: int) -> Draws:
    """Return noise of a solve's shapes.

    Args:
        noise: what was given.
        chunk: ``(T, D)``.
        steps: noises beside the initial one.

    Raises:
        PcmError: another type or shape, or a value that is not finite.
    """
    if not isinstance(noise, Draws):
        raise PcmError(f"noise is {type(noise).__name__}: give a Draws, or None to draw it")
    initial = shaped("noise.initial", noise.initial, (1, *chunk))
    if not steps:
        return Draws(initial)
    return Draws(initial, shaped("noise.steps", noise.steps, (steps, 1, *chunk)))


def guessed(guess: ArrayLike, chunk: tuple[int, int], steps: int) -> Floats:
    """Return a normalised guess of the chunk at every state, ``(N, 1, T, D)``; NaN starts cold.

    Raises:
        PcmError: no numbers, or another shape than ``(1, T, D)`` and ``(N, 1, T, D)``.
    """
    found, shape = numbers("guess", guess), (1, *chunk)
    if found.shape not in (shape, (steps, *shape)):
        raise PcmError(f"guess has shape {found.shape}: give {shape} or {(steps, *shape)}")
    return np.array(np.broadcast_to(found, (steps, *shape)), np.float32)


def known(spec: PolicySpec, prefix: ArrayLike) -> Actions:
    """Return known actions ``(n, Da)``, the first for the newest observation.

    Raises:
        PcmError: another shape, more of them than a chunk has left, or one that is not finite.
    """
    found = numbers("prefix", prefix)
    found = found[0] if found.ndim == 3 and len(found) == 1 else found
    if found.ndim != 2 or found.shape[1] != spec.action_dim or len(found) > spec.usable:
        raise PcmError(
            f"prefix has shape {found.shape}: expected (n, {spec.action_dim}) with n at most "
            f"{spec.usable}"
        )
    return shaped("prefix", found, found.shape)


def shaped(name: str, value: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an array of one shape, float32 and finite.

    Raises:
        PcmError: no numbers, another shape, or a value that is not finite.
    """
    found = numbers(name, value)
    if found.shape != shape:
        raise PcmError(f"{name} has shape {found.shape}: this policy takes {shape}")
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused as such
        array = np.ascontiguousarray(found, np.float32)
    if not np.isfinite(array).all():
        raise PcmError(f"{name} is not finite")
    return array
