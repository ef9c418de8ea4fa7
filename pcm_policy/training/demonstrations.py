"""From a demonstration set to what training takes: raw rows, windows, a fitted policy."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.checks import LARGEST_SEED, number, whole
from pcm_policy.datasets.frames import Frames, joined_frames, open_frames
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.recording import META, parse_meta
from pcm_policy.datasets.replay import ReplayBuffer
from pcm_policy.datasets.windows import field_keys, gather_fields, split_episodes, window_indices
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import STATE
from pcm_policy.settings import Count, Range, Seed
from pcm_policy.training.batches import Windows
from pcm_policy.training.cameras import encode_rows
from pcm_policy.training.noticing import coarse_columns, short_episodes, shortest_episode
from pcm_policy.training.saying import say
from pcm_policy.training.symmetry import reflect

_HASHED = 2**30
"""Bytes of a camera's frames that are hashed: all of them, or evenly spread ones."""
SEEN = 64
"""Held-out observations with images that a policy carries, encoded."""


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
        cache: folder for decoded camera frames.
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
    cache: str = "frames"
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
        return {"names": filled.names, "symmetry": filled.symmetry}


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
        train, held_out = (
            Windows.gather(policy, self.obs, self.action, rows, self.frames)
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
            found[f"frames of {name}"] = _digest([frames.take(block) for block in blocks])
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


def load_demonstrations(dataset: DatasetConfig, config: PolicyConfig) -> Demonstrations:
    """Read the fields that a policy needs and cut the usual padded windows.

    Raises:
        PcmError: the file is damaged, lacks a field, or its widths are not the policy's.
    """
    dataset = dataset.filled({})
    if dataset.val_filter_key is None:
        data = _read(dataset, config, dataset.val_fraction, dataset.filter_key)
    else:
        data = _read(dataset, config, 0.0, dataset.filter_key)
        held_out = _read(dataset, config, 0.0, dataset.val_filter_key)
        both = _joined(data, held_out)
        data = replace(
            both,
            train=data.train,
            train_steps=data.train_steps,
            held_out=held_out.train + len(data.obs),
        )
    for path in dataset.more:
        data = _joined(data, _read(replace(dataset, path=path), config, 0.0))
    obs, action, train, steps = data.obs, data.action, data.train, data.train_steps
    if dataset.symmetry is not None and data.frames:
        raise PcmError("dataset.symmetry maps numbers, not images: set dataset.symmetry=null")
    if dataset.symmetry is not None:
        copied, count = reflect(dataset.symmetry, obs, action, config), len(obs)
        obs, action = torch.cat([obs, copied[0]]), torch.cat([action, copied[1]])
        train, steps = (np.concatenate([rows, rows + count]) for rows in (train, steps))
    return replace(data, obs=obs, action=action, train=train, train_steps=steps)


def field_widths(
    dataset: DatasetConfig, obs_fields: Sequence[str], action_field: str
) -> dict[str, float | None]:
    """Return ``obs_dim`` and ``action_dim`` of fields, and ``control_hz`` if the file says it.

    Raises:
        PcmError: the file is damaged or lacks a field.
    """
    names = dataset.names or {}
    obs_fields = [names.get(text, text) for text in obs_fields]
    action_field = names.get(action_field, action_field)
    keys = field_keys([*obs_fields, action_field])
    buffer = open_demonstrations(dataset.path, keys, dataset.filter_key).first(1)
    return {
        "obs_dim": gather_fields(buffer, obs_fields).shape[1] if obs_fields else 0,
        "action_dim": gather_fields(buffer, [action_field]).shape[1],
        "control_hz": parse_meta(buffer.path, buffer.attrs.get(META)).get("fps"),
    }


def _read(
    dataset: DatasetConfig,
    config: PolicyConfig,
    val_fraction: float,
    filter_key: str | None = None,
) -> Demonstrations:
    path, names = dataset.path, dataset.names or {}
    obs_fields = [names.get(text, text) for text in config.obs_fields]
    action_field = names.get(config.action_field, config.action_field)
    buffer = open_demonstrations(path, field_keys([*obs_fields, action_field]), filter_key)
    if dataset.episodes is not None:
        buffer = buffer.first(dataset.episodes)
    obs, action = _columns(buffer, config, obs_fields, action_field)
    frames = {}
    for name, size in ({} if config.vision is None else config.vision.cameras).items():
        key, cache = names.get(name, name), Path(dataset.cache)
        frames[name] = open_frames(path, key, size, cache, filter_key, buffer.n_steps)
    kept, held = split_episodes(buffer.n_episodes, val_fraction, dataset.val_seed)
    padding = config.obs_steps - 1, config.action_steps - 1
    train, held_out = (
        window_indices(buffer.episode_ends, config.horizon, *padding, episodes)
        for episodes in (kept, held)
    )
    if len(train) == 0:
        raise PcmError(
            f"{path}: no training episode is long enough for horizon {config.horizon}: the longest "
            f"has {buffer.lengths[kept].max()} steps, {shortest_episode(config)} are needed"
        )
    notes = [
        *filter(None, [short_episodes(buffer.lengths, config)]),
        *(["no held-out episode gives a window"] if len(held) and not len(held_out) else []),
        *coarse_columns(buffer, [*obs_fields, action_field]),
    ]
    for note in notes:
        say(f"{path}: {note}")
    steps = np.concatenate([np.arange(buffer.starts[e], buffer.episode_ends[e]) for e in kept])
    return Demonstrations(obs, action, train, held_out, steps, frames, tuple(notes))


def _columns(
    buffer: ReplayBuffer, config: PolicyConfig, obs_fields: Sequence[str], action_field: str
) -> tuple[Tensor, Tensor]:
    """Return observations and actions as wide as the policy takes them, or raise PcmError."""
    action = torch.from_numpy(gather_fields(buffer, [action_field]))
    state_dim = config.obs_dim if config.vision is None else config.vision.state_dim
    obs = torch.zeros(len(action), 0)
    if obs_fields or state_dim:
        obs = torch.from_numpy(gather_fields(buffer, obs_fields))
    for name, rows, want in (
        ("observation " + "+".join(obs_fields), obs, state_dim),
        ("action " + action_field, action, config.action_dim),
    ):
        if rows.shape[1] != want:
            raise PcmError(
                f"{buffer.path}: {name} is {rows.shape[1]} wide, the policy takes {want}: "
                "check task.obs_fields and task.action_field, or choose another task"
            )
    return obs, action


def _joined(first: Demonstrations, more: Demonstrations) -> Demonstrations:
    """Train on both; what is held out stays the first one's."""
    count = len(first.obs)
    return Demonstrations(
        torch.cat([first.obs, more.obs]),
        torch.cat([first.action, more.action]),
        np.concatenate([first.train, more.train + count]),
        first.held_out,
        np.concatenate([first.train_steps, more.train_steps + count]),
        joined_frames(first.frames, more.frames),
        (*first.notes, *more.notes),
    )


def _digest(blocks: Iterable[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(f"{block.dtype} {block.shape}".encode())
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()[:16]
