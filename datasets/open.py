"""Demonstrations of either kind that training reads directly."""

from collections.abc import Sequence
from pathlib import Path

from pcm_policy.datasets.formats.robomimic import open_robomimic
from pcm_policy.datasets.replay import ReplayBuffer, open_replay
from pcm_policy.errors import PcmError

_HDF5 = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: str | Path) -> bool:
    """Say whether a path is an HDF5 file, by its first bytes or, if it is damaged, its name."""
    path = Path(path)
    if not path.is_file():
        return path.suffix in (".hdf5", ".h5")
    with path.open("rb") as file:
        return file.read(8) == _HDF5 or path.suffix in (".hdf5", ".h5")


def open_demonstrations(
    path: str | Path, keys: Sequence[str] | None = None, filter_key: str | None = None
) -> ReplayBuffer:
    """Read a replay buffer (zarr) or a robomimic file (HDF5) into memory, ``keys`` alone.

    Args:
        path: the store.
        keys: arrays that are read; None for all.
        filter_key: of a robomimic file: which demonstrations; None for all.

    Raises:
        PcmError: as ``open_replay`` and ``open_robomimic``; or a filter key of a replay buffer.
    """
    if is_hdf5(path):
        return open_robomimic(path, keys, filter_key)
    if filter_key is not None:
        raise PcmError(f"{path}: filter_key={filter_key}: only robomimic's HDF5 has filter keys")
    return open_replay(path, keys)
