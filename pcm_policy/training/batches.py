"""What objectives train on: windows of demonstrations, the rows of a step, its generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.cameras import Sight

if TYPE_CHECKING:  # it needs zarr, which training on tensors does not
    from pcm_policy.datasets.frames import Frames


@dataclass(frozen=True)
class Cut:
    """Windows that are cut out of rows when they are asked for: memory holds every row once.

    Attributes:
        rows: ``(steps, D)``.
        index: ``(n, w)`` int64, the rows of every window.
        flat: whether a window is one row, ``(n, w * D)``, or ``(n, w, D)``.
    """

    rows: Tensor
    index: Tensor
    flat: bool = False

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.index)

    def __getitem__(self, which: Tensor) -> Tensor:
        """Return some windows."""
        found = self.rows[self.index[which]]
        return found.flatten(1) if self.flat else found

    @property
    def shape(self) -> torch.Size:
        """The shape of all windows together."""
        wide = self.index.shape[1] * self.rows.shape[1]
        return torch.Size(
            (len(self), wide) if self.flat else (*self.index.shape, *self.rows.shape[1:])
        )

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.rows.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the rows."""
        return self.rows.dtype

    def to(self, device: torch.device) -> "Cut":
        """Return a copy on ``device``."""
        return Cut(self.rows.to(device), self.index.to(device), self.flat)


@dataclass(frozen=True)
class Windows:
    """Demonstration windows, normalised.

    Attributes:
        seen: ``(n, To * Do)`` observations.
        chunk: ``(n, T, Da)`` actions.
        sight: where the images are, of a policy with cameras; ``seen`` has no columns then.
    """

    seen: Tensor | Cut
    chunk: Tensor | Cut
    sight: Sight | None = None

    @classmethod
    def gather(
        cls,
        policy: DiffusionPolicy,
        obs: Tensor,
        action: Tensor,
        rows: NDArray[np.int64],
        frames: "Mapping[str, Frames] | None" = None,
    ) -> "Windows":
        """Cut windows out of ``(steps, Do)`` and ``(steps, Da)`` arrays.

        Args:
            policy: supplies the horizons.
            obs: observations, normalised but for those beside images.
            action: normalised actions.
            rows: ``(n, T)`` row of every window step.
            frames: of every camera, where images are encoded in training; ``obs`` holds the raw
                state alone then.
        """
        index = torch.from_numpy(rows)
        observed = index[:, : policy.config.obs_steps]
        chunk = Cut(action, index)
        if frames:
            return cls(obs.new_zeros(len(rows), 0), chunk, Sight(observed, obs[observed], frames))
        return cls(Cut(obs, observed, flat=True), chunk)

    def to(self, device: torch.device) -> "Windows":
        """Return a copy on ``device``."""
        return Windows(self.seen.to(device), self.chunk.to(device), self.sight)


class Batches:
    """Rows of the batch of every step; every epoch is a permutation of its own.

    The rows depend on the arguments and the step alone, so that training resumes without any
    generator's state; the object keeps the last permutation that it drew.

    Args:
        count: rows to draw from.
        batch: rows per step.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed = count, batch, seed
        self._drawn: tuple[int, NDArray[np.int64]] | None = None

    def __call__(self, step: int) -> Tensor:
        """Return the ``(batch,)`` rows of a 0-based step."""
        start, filled = step * self.batch, 0
        rows = np.empty(self.batch, dtype=np.int64)
        while filled < self.batch:
            epoch, offset = divmod(start + filled, self.count)
            take = min(self.batch - filled, self.count - offset)
            rows[filled : filled + take] = self._permutation(epoch)[offset : offset + take]
            filled += take
        return torch.from_numpy(rows)

    def _permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._drawn is None or self._drawn[0] != epoch:
            drawn = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            self._drawn = epoch, drawn
        return self._drawn[1]


def step_generator(seed: int, step: int) -> torch.Generator:
    """Return a CPU generator that depends on (seed, step) alone."""
    state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def random_prefixes(
    config: PolicyConfig,
    batch: int,
    generator: torch.Generator | None,
    steps: int,
    share: float = 0.5,
) -> Tensor:
    """Draw which steps of ``batch`` chunks are known, ``(batch, T, 1)`` bool.

    A share of the rows knows one or more actions from the newest observation's on, within the
    first ``steps``; half of those know the earlier, executed ones as well. Black et al. 2025
    (training-time real-time chunking) condition on known actions in the same way.
    """
    known = torch.zeros(batch, config.horizon, 1, dtype=torch.bool)
    first = config.obs_steps - 1
    if steps <= first or share == 0:
        return known
    draws = torch.rand(3, batch, generator=generator)
    room = steps - first
    end = first + 1 + (draws[1] * room).long().clamp(max=room - 1)
    begin = torch.where(draws[2] < 0.5, 0, first)
    step = torch.arange(config.horizon)
    inside = (step >= begin[:, None]) & (step < end[:, None]) & (draws[0] < share)[:, None]
    return inside[..., None]
