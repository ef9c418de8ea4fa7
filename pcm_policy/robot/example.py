"""One solve of the policy that a folder was made from, which every load repeats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.plan import Actions, Image
from pcm_policy.draws import Draws
from pcm_policy.errors import PcmError
from pcm_policy.robot.memory import Floats

NAMES = ("state", "obs", "prefix", "chunk", "scale")


@dataclass(frozen=True)
class Example:
    """Inputs of a solve, and what the policy made of them.

    Attributes:
        state: ``(To, n)`` raw numbers of the frames.
        obs: ``(1, To, Do)`` the observation, with the features of the images.
        noise: all the randomness.
        prefix: ``(n, Da)`` known raw actions.
        chunk: ``(1, T, Da)`` raw.
        scale: ``(Da,)`` from raw to normalised units of an action.
        images: ``(H, W, 3)`` of every camera: of one frame, which stands for all.
    """

    state: Floats
    obs: Floats
    noise: Draws
    prefix: Actions
    chunk: Floats
    scale: Floats
    images: Mapping[str, Image] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write a NumPy archive."""
        arrays: dict[str, Any] = {
            k: getattr(self, k) for k in ("state", "obs", "prefix", "chunk", "scale")
        }
        arrays["initial"] = self.noise.initial
        if self.noise.steps is not None:
            arrays["steps"] = self.noise.steps
        arrays |= {f"image.{name}": image for name, image in self.images.items()}
        np.savez_compressed(path, **arrays)

    def features_differ(self, obs: Floats) -> float:
        """Return the largest difference to its observation, relative where that is above 1."""
        off = np.abs(obs - self.obs) / np.maximum(np.abs(self.obs), 1)
        return float(off.max())

    def chunks_differ(self, chunk: Floats) -> float:
        """Return the largest difference to its chunk, in normalised action units."""
        return float(np.abs((chunk - self.chunk) * self.scale).max())


def read_example(path: Path) -> Example:
    """Read an example; never a pickle.

    Raises:
        PcmError: it is damaged, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays: dict[str, NDArray[Any]] = {name: found[name] for name in found.files}
        prefix = "image."
        images = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        noise = Draws(arrays["initial"], arrays.get("steps"))
        return Example(noise=noise, images=images, **{name: arrays[name] for name in NAMES})
    except (OSError, ValueError, EOFError, KeyError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PcmError(f"{path} is damaged ({what}): export the policy again") from error
