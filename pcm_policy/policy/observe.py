"""Checks of an observation before the policy predicts from it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pcm_policy.checks import numbers
from pcm_policy.errors import PcmError
from pcm_policy.fields import STATE, join_fields, parse_field, read_observation
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.policy.vision import Vision


def select(
    config: PolicyConfig, obs: NDArray[Any] | Mapping[str, NDArray[Any]]
) -> NDArray[Any] | dict[str, NDArray[Any]]:
    """Take what a policy sees out of an environment's observation, whatever else is in it.

    Args:
        config: its ``obs_fields`` name the numbers, its cameras the images.
        obs: an array, which is returned as it is, or entries by name, leading axes ``(..., To)``.

    Returns:
        ``(..., To, Do)``, or with cameras a dictionary as ``predict`` takes it.

    Raises:
        PcmError: an entry is missing.
    """
    if not isinstance(obs, Mapping):
        return obs
    if config.vision is None:
        return join_fields(obs, config.obs_fields)
    lacking = [name for name in config.vision.cameras if name not in obs]
    if lacking:
        raise PcmError(f"the observation lacks the camera {lacking[0]}: it has {', '.join(obs)}")
    seen = {name: obs[name] for name in config.vision.cameras}
    return seen | ({STATE: join_fields(obs, config.obs_fields)} if config.vision.state_dim else {})


@torch.no_grad()
def observe(
    config: PolicyConfig,
    normalizer: Normalizer,
    vision: Vision | None,
    obs: ArrayLike | Mapping[str, ArrayLike],
) -> Tensor:
    """Check raw observations, as ``DiffusionPolicy.observe`` describes them.

    Args:
        config: sizes, and how far outside the training range an observation may be.
        normalizer: of the observations; its device and type are the result's.
        vision: the cameras, if there are any.
        obs: what was seen.

    Returns:
        ``(B, To, Do)``.

    Raises:
        PcmError: a wrong shape or type, a value that is not finite or far outside the range.
    """
    images: Mapping[str, NDArray[np.uint8]] = {}
    if vision is not None:
        sees = vision.config
        array, images = read_observation(obs, sees.state_dim, sees.cameras, config.obs_steps)
    else:
        array = _batched(config, obs)
    given = torch.from_numpy(np.ascontiguousarray(array))
    pixels = {n: torch.from_numpy(np.ascontiguousarray(v)) for n, v in images.items()}
    return observe_tensors(config, normalizer, vision, given, pixels)


@torch.no_grad()
def observe_tensors(
    config: PolicyConfig,
    normalizer: Normalizer,
    vision: Vision | None,
    given: Tensor,
    images: Mapping[str, Tensor],
) -> Tensor:
    """Check the values of observations whose shapes are right; what is on a device stays there.

    Args:
        config: how far outside the training range an observation may be.
        normalizer: of the observations; its device and type are the result's.
        vision: the cameras, if there are any.
        given: ``(B, To, Do)`` raw numbers, with cameras those of the state.
        images: ``(B, To, H, W, 3)`` uint8 for every camera.

    Returns:
        ``(B, To, Do)``.

    Raises:
        PcmError: a value that is not finite or far outside the range.
    """
    raw = given.to(normalizer.low)
    if vision is not None:
        raw = vision(raw, {n: v.to(raw.device) for n, v in images.items()})
    excess = normalizer.excess(raw)
    if not bool((excess <= config.max_excess).all()):  # what is not finite is not within it either
        raise PcmError(_refusal(normalizer, given, raw, excess))
    return raw


def _refusal(normalizer: Normalizer, given: Tensor, raw: Tensor, excess: Tensor) -> str:
    """Say which number of an observation is wrong."""
    wrong = (~given.isfinite()).nonzero()
    if len(wrong):
        b, step, dim = (int(i) for i in wrong[0])
        value = float(given[b, step, dim])
        return f"observation is not finite at batch {b}, step {step}, dimension {dim}: {value}"
    b, step, dim = (int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
    return (
        f"observation is out of range at batch {b}, step {step}, dimension {dim}: "
        f"{raw[b, step, dim]:g} against {normalizer.low[dim]:g} to {normalizer.high[dim]:g} "
        "in training"
    )


def _batched(config: PolicyConfig, obs: ArrayLike | Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Return an observation without images as ``(B, To, Do)``.

    An entry of a dictionary may have axes of its own, ``(B, To, 9, 2)`` for nine points: they are
    flattened.
    """
    want = (config.obs_steps, config.obs_dim)
    array = _joined(config, obs) if isinstance(obs, Mapping) else numbers("observation", obs)
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1:] != want or array.shape[0] == 0:
        raise PcmError(
            f"observation has shape {array.shape}: this policy takes (To, Do) = {want}, or a "
            f"batch (B, {want[0]}, {want[1]})"
        )
    with np.errstate(over="ignore"):  # what does not fit is infinite, and refused as such
        return array.astype(np.float32)


def _joined(config: PolicyConfig, obs: Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Join the entries as they are, or flattened after ``To``, whichever gives the policy's width.

    Raises:
        PcmError: what is wrong with them as they are, if neither does.
    """
    want = (config.obs_steps, config.obs_dim)
    entries = {k: numbers(f"observation {k}", v) for k, v in obs.items() if _seen(config, k)}
    entries |= {k: np.zeros(0) for k in obs if k not in entries}
    for lead in (1, 2):  # (To, ...) and (B, To, ...)
        flat = {k: v.reshape(*v.shape[:lead], -1) for k, v in entries.items() if v.ndim > lead}
        with suppress(PcmError):
            found = join_fields(flat, config.obs_fields)
            if found.shape[-2:] == want:
                return found
    return join_fields(entries, config.obs_fields)


def _seen(config: PolicyConfig, entry: str) -> bool:
    return any(parse_field(text).key == entry for text in config.obs_fields)
