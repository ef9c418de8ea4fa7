"""Which demonstrations are trained on, and how they are read and split."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pcm_policy.checks import LARGEST_SEED, number, whole
from pcm_policy.settings import Count, Range, Seed


@dataclass(frozen=True)
class DatasetConfig:
    """Which demonstrations, and how they are split.

    Attributes:
        path: replay buffer, a zarr folder or zip; or a robomimic HDF5 file.
        val_fraction: share of the episodes that nothing is trained on.
        val_seed: seed of the split.
        filter_key: of a robomimic file: train on the demonstrations that ``mask/<filter_key>``
            names; None for all.
        val_filter_key: of a robomimic file: hold out those that this one names, in place of
            ``val_fraction``.
        more: further replay buffers; all their episodes are trained on.
        episodes: take the first episodes alone; None for all.
        names: what a policy's entries are called in the demonstrations, where they differ. None:
            as the task says, or the policy that is distilled; nothing where neither does.
        symmetry: ``module:function`` that maps all rows ``(obs, action)`` to an equally valid
            copy of them; the training episodes are seen both ways. ``auto``: that of the task, or
            of the policy that is distilled; no copy where neither has one. None for no copy.

    Raises:
        PcmError: a value of another type or out of range; the message names it.
    """

    path: str
    val_fraction: Annotated[float, Range(least=0, below=1)] = 0.05
    val_seed: Seed = 42
    filter_key: str | None = None
    val_filter_key: str | None = None
    more: list[str] = field(default_factory=list)
    episodes: Count | None = None
    names: dict[str, str] | None = None
    symmetry: str | None = "auto"

    def __post_init__(self) -> None:
        number("dataset.val_fraction", self.val_fraction, 0, below=1)
        whole("dataset.val_seed", self.val_seed, 0, LARGEST_SEED)
        if self.episodes is not None:
            whole("dataset.episodes", self.episodes, 1)

    def filled(self, reading: Mapping[str, Any]) -> "DatasetConfig":
        """Return it with ``names`` and ``symmetry`` from a task or a policy where left open."""
        names = dict(reading.get("names") or {}) if self.names is None else self.names
        symmetry = reading.get("symmetry") if self.symmetry == "auto" else self.symmetry
        return replace(self, names=names, symmetry=symmetry)

    @property
    def reading(self) -> dict[str, Any]:
        """How the rows were read, for the policy's config; nothing of it left open."""
        filled = self.filled({})
        split = {"val_fraction": self.val_fraction, "val_seed": self.val_seed}
        return {"names": filled.names, "symmetry": filled.symmetry, **split}
