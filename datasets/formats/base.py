"""What a format of demonstrations is: one object that knows its files, reads and writes them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcm_policy.datasets.buffer import ReplayBuffer
from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.formats.loading import FrameSource, frame_source, load
from pcm_policy.datasets.gathered import Gathered, examine_recording
from pcm_policy.datasets.recording import Recording
from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class WriteOptions:
    """How a target is written, each for one format.

    Attributes:
        zarr_format: of a replay buffer.
        lerobot_version: of a LeRobot folder.
        lerobot_video: how its cameras are encoded; None for pictures, which nothing changes.
    """

    zarr_format: Literal[2, 3] = 2
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0"
    lerobot_video: Literal["av1", "h264"] | None = None


def no_filter_key(path: Path, filter_key: str | None) -> None:
    """Refuse a filter key; PcmError."""
    if filter_key is not None:
        raise PcmError(f"{path}: filter_key={filter_key}: only robomimic's HDF5 has filter keys")


def no_images(path: Path, images: Sequence[str] | str, name: str) -> None:
    """Refuse cameras that are named one by one, where they are arrays as any other; PcmError."""
    if images:
        raise PcmError(f"{path}: images=... decodes cameras of a LeRobot data set, not of {name}")


class Format(ABC):
    """A format: subclass it, put an instance into :func:`~.registry.register`, and it is known.

    ``pcm-data info``, ``validate`` and ``convert`` need :meth:`recognises` and :meth:`read`;
    :meth:`accepts` and :meth:`write` make it a target as well.

    Training reads what :meth:`read` describes, as it is; :meth:`load` and :meth:`camera` do it in
    another way where a format has a quicker one.

    Attributes:
        name: one word, for messages.
        general: whether it is asked last, because its files are other formats' too.
    """

    name: str
    general: bool = False

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Say whether a path is of this format, by what is there: names of files, first bytes."""

    @abstractmethod
    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe a source; nothing but what describes it is read.

        Args:
            path: what :meth:`recognises` said yes to.
            images: cameras to decode that are left out otherwise, or ``all``.

        Raises:
            PcmError: an optional package is not installed; or a ReplayError: it is damaged.
        """

    def load(
        self, path: Path, keys: Sequence[str] | None = None, filter_key: str | None = None
    ) -> ReplayBuffer:
        """Read arrays into memory for training, ``keys`` alone; None for all.

        Raises:
            PcmError: a filter key, or what :func:`.loading.load` raises.
        """
        no_filter_key(path, filter_key)
        return load(self.read(path), keys)

    def camera(self, path: Path, key: str, filter_key: str | None = None) -> FrameSource:
        """Describe a camera for training; its frames are not read yet.

        Raises:
            PcmError: a filter key, or a ReplayError: there is no such array, or it is damaged.
        """
        no_filter_key(path, filter_key)
        return frame_source(self.read(path), key)

    def whole(self, path: Path) -> Recording:
        """Describe a source with everything that training can read, cameras included."""
        return self.read(path)

    def observed(self, recording: Recording) -> list[str]:
        """Return the fields of a recording that are observations, by their names."""
        heads = ("observation", "obs")
        return [name for name in recording.fields if name.partition(".")[0] in heads]

    def accepts(self, target: Path) -> bool:
        """Say whether a target of this name is to be written in this format."""
        return False

    def place(self, target: Path) -> Path:
        """Return the file or folder that a target is."""
        return target

    def write(self, target: Path, recording: Recording, options: WriteOptions) -> list[str]:
        """Write a recording, whole or not at all; return what users of the target may miss.

        Raises:
            PcmError: the format cannot hold an array; a ReplayError with ``array`` names it.
        """
        raise PcmError(f"{self.name} is read and not written")

    def examine(self, path: Path, data: Gathered, filter_key: str | None) -> Iterator[Finding]:
        """Yield what is wrong with a source's structure, and gather its numbers.

        Args:
            path: the source.
            data: gets the arrays and the episodes.
            filter_key: one that must be there, if any.

        Raises:
            ReplayError: nothing of it can be read.
        """
        no_filter_key(path, filter_key)
        yield from examine_recording(self.read(path), data)

    def describe(self, path: Path) -> list[str]:
        """Return lines for ``pcm-data info`` beside the table of arrays."""
        return []
