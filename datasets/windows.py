"""Columns that make an observation, rows that make a window, episodes that are held out."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.replay import ReplayBuffer
from pcm_policy.errors import PcmError
from pcm_policy.fields import parse_field


def field_keys(fields: Sequence[str]) -> list[str]:
    """Return the arrays that ``fields`` need, each once: the ``keys`` of ``open_replay``."""
    return list(dict.fromkeys(parse_field(text).key for text in fields))


def gather_fields(buffer: ReplayBuffer, fields: Sequence[str]) -> NDArray[np.float32]:
    """Put columns of several arrays side by side.

    Args:
        buffer: holds the arrays.
        fields: for Push-T ``["keypoint", "state[0:2]"]``: nine points, then agent x, y (pixels).

    Returns:
        Shape (n_steps, Do), in the order of ``fields`` and in the units of the arrays.

    Raises:
        PcmError: no fields, an array that the buffer does not hold, or a slice outside it.
    """
    if not fields:
        raise PcmError(f"{buffer.path}: no fields to gather; name at least one array")
    parts = []
    for text in fields:
        field = parse_field(text)
        if field.key not in buffer.arrays:
            there = ", ".join(buffer.arrays)
            raise PcmError(f"{buffer.path}: field {text}: no array {field.key}; loaded are {there}")
        parts.append(field.columns(buffer.arrays[field.key]))
    return np.concatenate(parts, axis=1, dtype=np.float32, casting="unsafe")


def window_indices(
    episode_ends: NDArray[np.int64],
    horizon: int,
    pad_before: int,
    pad_after: int,
    episodes: Sequence[int] | NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the row behind every step of every training window, as Diffusion Policy samples them.

    Window k of an episode starts ``pad_before - k`` steps before its first row; the last reaches
    ``pad_after`` steps past its last. Steps outside the episode repeat its first or last row.

    Args:
        episode_ends: cumulative end rows.
        horizon: steps of a window.
        pad_before: steps that may lie before the episode (observed steps - 1); more than
            ``horizon - 1`` counts as that, since a window needs a row of its own.
        pad_after: the same behind the episode (executed steps - 1).
        episodes: which episodes, in this order; None is all.

    Returns:
        Rows, shape (n_windows, horizon); episodes too short for one window give none.

    Raises:
        PcmError: horizon below 1, negative padding, or an episode that does not exist.
    """
    if horizon < 1 or pad_before < 0 or pad_after < 0:
        raise PcmError(
            f"windows of horizon {horizon}, pad_before {pad_before}, pad_after {pad_after}: "
            "the horizon must be at least 1 and no padding negative"
        )
    n_episodes = len(episode_ends)
    chosen = np.arange(n_episodes) if episodes is None else np.asarray(episodes, dtype=np.int64)
    if chosen.size and not 0 <= chosen.min() <= chosen.max() < n_episodes:
        raise PcmError(f"episodes {chosen.min()} to {chosen.max()}: there are only {n_episodes}")
    before, after = min(pad_before, horizon - 1), min(pad_after, horizon - 1)
    starts = np.concatenate([[0], episode_ends[:-1]])
    windows = [np.empty((0, horizon), dtype=np.int64)]
    for start, end in zip(starts[chosen], episode_ends[chosen], strict=True):
        first = np.arange(start - before, end - horizon + after + 1)
        windows.append(np.clip(first[:, None] + np.arange(horizon), start, end - 1))
    return np.concatenate(windows)


def split_episodes(
    n_episodes: int, val_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Hold out whole episodes, drawn from ``seed``.

    A fraction above 0 holds out at least one episode if there are two, and always leaves one.

    Returns:
        Training and validation episodes, each sorted; together all, in common none.

    Raises:
        PcmError: no episodes, a fraction outside [0, 1), or a negative seed.
    """
    if n_episodes < 1 or not 0.0 <= val_fraction < 1.0 or seed < 0:
        raise PcmError(
            f"split of {n_episodes} episodes, val_fraction {val_fraction}, seed {seed}: "
            "expected at least 1 episode, 0 <= val_fraction < 1 and seed >= 0"
        )
    wanted = max(1, round(n_episodes * val_fraction)) if val_fraction else 0
    order = np.random.default_rng(seed).permutation(n_episodes)
    n_val = min(wanted, n_episodes - 1)
    return np.sort(order[n_val:]), np.sort(order[:n_val])
