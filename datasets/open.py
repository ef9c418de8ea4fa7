"""Demonstrations of either kind that training reads directly."""

from collections.abc import Sequence
from pathlib import Path

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import no_filter_key
from pcm_policy.datasets.formats.registry import source_format
from pcm_policy.datasets.formats.robomimic import open_robomimic
from pcm_policy.datasets.hdf5 import is_hdf5 as is_hdf5
from pcm_policy.datasets.replay import ReplayBuffer, open_replay


def open_demonstrations(
    path: str | Path, keys: Sequence[str] | None = None, filter_key: str | None = None
) -> ReplayBuffer:
    """Read a replay buffer (zarr) or a robomimic file (HDF5) into memory, ``keys`` alone.

    Args:
        path: the store.
        keys: arrays that are read; None for all.
        filter_key: of a robomimic file: which demonstrations; None for all.

    Raises:
        PcmError: as ``open_replay`` and ``open_robomimic``; a filter key of a replay buffer; or
            demonstrations of a format that is converted first.
    """
    known = source_format(Path(path))
    if not known.trainable:
        found = f"is of the format {known.name}, which training does not read"
        fix = f"pcm-data convert {path} X.zarr makes a replay buffer, which it reads"
        raise ReplayError(Path(path), "store", found, fix)
    if is_hdf5(path):
        return open_robomimic(path, keys, filter_key)
    no_filter_key(Path(path), filter_key)
    return open_replay(path, keys)
