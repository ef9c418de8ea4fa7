"""Demonstrations of any format, read into memory for training."""

from collections.abc import Sequence
from pathlib import Path

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.formats.registry import source_format


def open_demonstrations(
    path: str | Path, keys: Sequence[str] | None = None, filter_key: str | None = None
) -> ReplayBuffer:
    """Read a source into memory, ``keys`` alone.

    Args:
        path: replay buffer, robomimic file, LeRobot folder, ``minari:ID``, or what a format of
            one's own recognises.
        keys: arrays that are read; None for all.
        filter_key: of a robomimic file: which demonstrations; None for all.

    Raises:
        PcmError: it is of no format that is known, damaged, lacks a key, or has no filter keys.
    """
    return source_format(Path(path)).load(Path(path), keys, filter_key)
