"""Policies of other projects, read without running anything of theirs.

``read`` translates a checkpoint; :meth:`~pcm_policy.imports.build.Imported.policy` builds ours.
"""

from pathlib import Path

from pcm_policy.errors import PcmError
from pcm_policy.imports import lerobot
from pcm_policy.imports.build import Imported

__all__ = ["Imported", "read"]


def read(source: str | Path) -> Imported:
    """Translate a checkpoint of LeRobot.

    Args:
        source: a LeRobot policy folder.

    Raises:
        PcmError: nothing there that can be imported, naming file, entry and what to do.
    """
    path = Path(source)
    if not path.exists():
        raise PcmError(f"{path} does not exist: name a LeRobot policy folder")
    if path.is_dir() and lerobot.is_lerobot(path):
        return lerobot.read(path)
    if path.is_dir() and lerobot.is_lerobot(path / "pretrained_model"):
        return lerobot.read(path / "pretrained_model")  # LeRobot's checkpoints/NNN
    raise PcmError(f"{path} is no policy that can be imported: name a LeRobot policy folder")
