"""From files of demonstrations to their rows and windows, as a policy takes them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcm_policy.datasets.formats.replay import ReplayBuffer
from pcm_policy.datasets.frames import joined_frames, open_frames
from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.recording import META, parse_meta
from pcm_policy.datasets.windows import field_keys, gather_fields, split_episodes, window_indices
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.demonstrations import Demonstrations
from pcm_policy.training.noticing import (
    coarse_columns,
    nearly_constant_columns,
    short_episodes,
    shortest_episode,
)
from pcm_policy.training.saying import say
from pcm_policy.training.symmetry import reflect


def load_demonstrations(
    dataset: DatasetConfig, config: PolicyConfig, cache: Path = Path("frames")
) -> Demonstrations:
    """Read the fields that a policy needs and cut the usual padded windows.

    Args:
        dataset: which demonstrations, and how they are split.
        config: names fields and cameras, and has the horizons.
        cache: folder for decoded camera frames.

    Raises:
        PcmError: the file is damaged, lacks a field, or its widths are not the policy's.
    """
    dataset = dataset.filled({})
    if dataset.val_filter_key is None:
        data = _read(dataset, config, cache, dataset.val_fraction, dataset.filter_key)
    else:
        data = _read(dataset, config, cache, 0.0, dataset.filter_key)
        held_out = _read(dataset, config, cache, 0.0, dataset.val_filter_key)
        both = _joined(data, held_out)
        data = replace(
            both,
            train=data.train,
            train_steps=data.train_steps,
            held_out=held_out.train + len(data.obs),
        )
    for path in dataset.more:
        data = _joined(data, _read(replace(dataset, path=path), config, cache, 0.0))
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
    cache: Path,
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
        key = names.get(name, name)
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
        *nearly_constant_columns(buffer, [*obs_fields, action_field]),
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
