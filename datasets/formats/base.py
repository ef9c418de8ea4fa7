"""What a format of demonstrations is: one object that knows its files, reads and writes them."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pcm_policy.datasets.findings import Finding
from pcm_policy.datasets.gathered import Gathered, examine_recording
from pcm_policy.datasets.recording import Recording
from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class WriteOptions:
    """How a target is written, each for one format.

    Attributes:
        zarr_format: of a replay buffer.
        lerobot_version: of a LeRobot folder.
    """

    zarr_format: Literal[2, 3] = 2
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0"


def no_filter_key(path: Path, filter_key: str | None) -> None:
    """Refuse a filter key; PcmError."""
    if filter_key is not None:
        raise PcmError(f"{path}: filter_key={filter_key}: only robomimic's HDF5 has filter keys")


class Format(ABC):
    """A format: subclass it, put an instance into :func:`~.registry.register`, and it is known.

    ``pcm-data info``, ``validate`` and ``convert`` need :meth:`recognises` and :meth:`read`;
    :meth:`accepts` and :meth:`write` make it a target as well.

    Attributes:
        name: one word, for messages.
        trainable: whether training opens the files as they are.
    """

    name: str
    trainable: bool = False

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
