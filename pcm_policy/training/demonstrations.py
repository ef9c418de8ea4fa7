"""Demonstrations as training takes them: raw rows, and the rows of every window."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.datasets.frames import Frames
from pcm_policy.fields import STATE
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.batches import Windows
from pcm_policy.training.cameras import encode_rows
from pcm_policy.training.dataset import DatasetConfig

_HASHED = 2**30
"""Bytes of a camera's frames that are hashed: all of them, or evenly spread ones."""
SEEN = 64
"""Held-out observations with images that a policy carries, encoded."""


@dataclass(frozen=True)
class Demonstrations:
    """Raw rows and the window rows of both splits.

    Attributes:
        obs: ``(steps, Do)`` float32.
        action: ``(steps, Da)`` float32.
        train: ``(n, T)`` rows of the training windows.
        held_out: ``(m, T)`` rows of the other episodes' windows.
        train_steps: ``(k,)`` rows of the training episodes.
        frames: of every camera; ``obs`` holds the state alone then, ``(steps, state_dim)``.
        notes: what a user should know of them, for the card.
    """

    obs: Tensor
    action: Tensor
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    train_steps: NDArray[np.int64]
    frames: Mapping[str, Frames] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def windows(self, policy: DiffusionPolicy) -> tuple[Windows, Windows]:
        """Return normalised training and held-out windows."""
        action = policy.action_normalizer.normalize(self.action)
        obs = self.obs if self.frames else policy.obs_normalizer.normalize(self.obs)
        train, held_out = (
            Windows.gather(policy, obs, action, rows, self.frames)
            for rows in (self.train, self.held_out)
        )
        return train, held_out

    def describe(self, dataset: DatasetConfig) -> str:
        """Return a line for the policy's card."""
        names = ", ".join(f"`{Path(path).name}`" for path in [dataset.path, *dataset.more])
        copied = dataset.filled({}).symmetry
        copies = f", half of them copies by `{copied}`," if copied else ""
        return (
            f"{names}: {len(self.train)} training windows{copies} and {len(self.held_out)} "
            f"held-out windows (episodes split with val_fraction={dataset.val_fraction}, "
            f"val_seed={dataset.val_seed})" + "".join(f"; {note}" for note in self.notes)
        )

    def digests(self) -> dict[str, Any]:
        """Return digests of all that is learnt from: a run resumes with the same alone."""
        arrays = {"observations": self.obs.numpy(), "actions": self.action.numpy()}
        arrays |= {"training windows": self.train, "held-out windows": self.held_out}
        found = {name: _digest([values]) for name, values in arrays.items()}
        for name, frames in self.frames.items():
            size = max(1, int(np.prod(frames.parts[0].shape[1:])))
            rows = np.linspace(0, len(frames) - 1, min(len(frames), _HASHED // size + 1))
            blocks = np.array_split(rows.astype(np.int64), len(rows) // 256 + 1)
            found[f"frames of {name}"] = _digest(frames.take(block) for block in blocks)
        return found

    def observations(self, policy: DiffusionPolicy, count: int = 256) -> Tensor:
        """Return up to ``count`` raw held-out observations ``(n, To, Do)``, evenly spread.

        Where no episode was held out they come from the training windows. Images are encoded by the
        policy.
        """
        if self.frames:
            rows = self._spread(policy, min(count, SEEN))
            frames = {k: Frames.of([v.take(rows.ravel())]) for k, v in self.frames.items()}
            found = encode_rows(policy, self.obs[rows.ravel()], frames)
            return found.view(*rows.shape, -1)
        return self.obs[torch.from_numpy(self._spread(policy, count))]

    def sights(self, policy: DiffusionPolicy, count: int = 16) -> dict[str, Tensor]:
        """Return some held-out observations as they are before anything is encoded.

        Returns:
            ``state`` ``(n, To, state_dim)`` and images ``(n, To, H, W, 3)``; nothing without them.
        """
        if not self.frames:
            return {}
        rows = self._spread(policy, count)
        images = {k: torch.from_numpy(v.take(rows)) for k, v in self.frames.items()}
        return {STATE: self.obs[torch.from_numpy(rows)], **images}

    def encoded(self, policy: DiffusionPolicy) -> "Demonstrations":
        """Return the same with images encoded by a policy, in place of the images."""
        if not self.frames:
            return self
        return replace(self, obs=encode_rows(policy, self.obs, self.frames), frames={})

    def _spread(self, policy: DiffusionPolicy, count: int) -> NDArray[np.int64]:
        rows = self.held_out if len(self.held_out) else self.train
        picked = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
        return picked[:, : policy.config.obs_steps]


def _digest(blocks: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(f"{block.dtype} {block.shape}".encode())
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()[:16]
