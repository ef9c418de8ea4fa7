"""The format of robomimic's HDF5 files, as a source and a target of conversions."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.formats import robomimic_faults as doctor
from pcm_policy.datasets.formats.base import Format, WriteOptions, no_images
from pcm_policy.datasets.formats.loading import FrameSource
from pcm_policy.datasets.formats.robomimic import (
    open_robomimic,
    read_robomimic,
    robomimic_camera,
)
from pcm_policy.datasets.formats.robomimic_writing import write_robomimic
from pcm_policy.datasets.gathered import Gathered
from pcm_policy.datasets.hdf5 import is_hdf5
from pcm_policy.datasets.recording import Recording, section


class Robomimic(Format):
    """robomimic's HDF5 files, ``*.hdf5``."""

    name = "robomimic"
    general = True

    def recognises(self, path: Path) -> bool:
        """Say whether a path is an HDF5 file, by its first bytes or its name."""
        return is_hdf5(path)

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe a file; its cameras are arrays as any other."""
        no_images(path, images, "robomimic")
        return read_robomimic(path)

    def load(
        self, path: Path, keys: Sequence[str] | None = None, filter_key: str | None = None
    ) -> ReplayBuffer:
        """Read arrays of the demonstrations that a filter key names."""
        return open_robomimic(path, keys, filter_key)

    def camera(self, path: Path, key: str, filter_key: str | None = None) -> FrameSource:
        """Describe a camera of the demonstrations that a filter key names."""
        return robomimic_camera(path, key, filter_key)

    def observed(self, recording: Recording) -> list[str]:
        """Return what is in ``obs``."""
        names = section(section(recording.meta, "robomimic"), "names")
        return [name for name, place in names.items() if str(place).startswith("obs/")]

    def accepts(self, target: Path) -> bool:
        """Say whether a target ends in .hdf5 or .h5."""
        return target.suffix in (".hdf5", ".h5")

    def write(self, target: Path, recording: Recording, options: WriteOptions) -> list[str]:
        """Write a file; return what robomimic will miss in it."""
        return write_robomimic(target, recording)

    def examine(self, path: Path, data: Gathered, filter_key: str | None) -> Iterator[Finding]:
        """Yield what is wrong, demonstration by demonstration."""
        return doctor.examine(path, filter_key, data)

    def describe(self, path: Path) -> list[str]:
        """Return the environment, filter keys and how the file was made."""
        return doctor.describe(path)


FORMAT = Robomimic()
