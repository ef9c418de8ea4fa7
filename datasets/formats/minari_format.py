"""The format of Minari's data sets, as a source and a target of conversions."""

from collections.abc import Sequence
from pathlib import Path

from pcm_policy.datasets.formats.base import Format, WriteOptions, no_images
from pcm_policy.datasets.formats.minari import SCHEME, is_minari, minari_folder, read_minari
from pcm_policy.datasets.formats.minari_writing import write_minari
from pcm_policy.datasets.recording import Recording, section


class Minari(Format):
    """Minari's data sets, ``minari:ID`` or their folders."""

    name = "minari"

    def recognises(self, path: Path) -> bool:
        """Say whether a path is ``minari:ID`` or a folder with ``data/metadata.json``."""
        return is_minari(path)

    def read(self, path: Path, images: Sequence[str] | str = ()) -> Recording:
        """Describe a data set; its cameras are arrays as any other."""
        no_images(path, images, "minari")
        return read_minari(path)

    def observed(self, recording: Recording) -> list[str]:
        """Return what is in ``observations``."""
        names = section(section(recording.meta, "minari"), "names")
        return [k for k, place in names.items() if str(place).partition("/")[0] == "observations"]

    def accepts(self, target: Path) -> bool:
        """Say whether a target begins with ``minari:``."""
        return str(target).startswith(SCHEME)

    def place(self, target: Path) -> Path:
        """Return the folder of a target."""
        return minari_folder(target)

    def write(self, target: Path, recording: Recording, options: WriteOptions) -> list[str]:
        """Write a data set; return notes."""
        return write_minari(target, recording)


FORMAT = Minari()
