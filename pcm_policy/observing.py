"""The gate in front of a policy: what an observation has to be before anything is predicted."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.normalize import Normalizer
from pcm_policy.policy_config import PolicyConfig
from pcm_policy.vision import Vision


@torch.no_grad()
def observe(
    config: PolicyConfig,
    normalizer: Normalizer,
    vision: Vision | None,
    obs: ArrayLike | Mapping[str, ArrayLike],
) -> Tensor:
    """Check raw observations; :meth:`pcm_policy.policy.DiffusionPolicy.observe` describes them.

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
        array, images = vision.observation(obs, config.obs_steps)
    else:
        array = _batched(config, obs)
    if not np.isfinite(array).all():
        b, step, dim = (int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise PcmError(
            f"observation is not finite at batch {b}, step {step}, dimension {dim}: "
            f"{array[b, step, dim]}"
        )
    raw = torch.from_numpy(array).to(normalizer.low)
    if vision is not None:
        raw = vision(raw, {n: torch.from_numpy(v).to(raw.device) for n, v in images.items()})
    excess = normalizer.excess(raw)
    if bool((excess > config.max_excess).any()):
        b, step, dim = (int(i) for i in np.unravel_index(int(excess.argmax()), excess.shape))
        raise PcmError(
            f"observation is out of range at batch {b}, step {step}, dimension {dim}: "
            f"{raw[b, step, dim]:g} against {normalizer.low[dim]:g} to {normalizer.high[dim]:g} "
            "in training"
        )
    return raw


def _batched(config: PolicyConfig, obs: ArrayLike | Mapping[str, ArrayLike]) -> NDArray[np.float32]:
    """Return an observation without images as ``(B, To, Do)``."""
    if isinstance(obs, Mapping):
        raise PcmError("this policy has no cameras: give an array (To, Do), not a dictionary")
    array = np.asarray(obs, dtype=np.float32)
    array = array[None] if array.ndim == 2 else array
    want = (config.obs_steps, config.obs_dim)
    if array.ndim != 3 or array.shape[1:] != want or array.shape[0] == 0:
        raise PcmError(
            f"observation has shape {np.shape(obs)}: this policy takes (To, Do) = {want}, or a "
            f"batch (B, {want[0]}, {want[1]})"
        )
    return array
