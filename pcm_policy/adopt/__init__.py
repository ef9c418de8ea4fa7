"""Policies of other projects, read without running anything of theirs.

``read`` translates a checkpoint; :meth:`~pcm_policy.adopt.build.Imported.policy` builds ours.
"""

from pathlib import Path

from pcm_policy.adopt import diffusion_policy, lerobot, robomimic
from pcm_policy.adopt.build import Imported
from pcm_policy.adopt.clip import NOTHING_SAID, Language
from pcm_policy.adopt.lerobot_files import FILES
from pcm_policy.adopt.settings import translating
from pcm_policy.adopt.torchzip import open_archive
from pcm_policy.errors import PcmError
from pcm_policy.policy.hub import download, hub_id

__all__ = ["Imported", "Language", "read"]

_KINDS = "a LeRobot policy folder, a diffusion_policy .ckpt or a robomimic .pth"


def read(source: str | Path, language: Language = NOTHING_SAID) -> Imported:
    """Translate a checkpoint of LeRobot, diffusion_policy or robomimic.

    Args:
        source: a LeRobot policy folder, a checkpoint or a run that holds one, its ``OWNER/NAME`` on
            the hub, or a file of one of the others.
        language: what a LeRobot ``multi_task_dit`` is told to do; nothing for any other policy.

    Raises:
        PcmError: nothing there that can be imported, naming file, entry and what to do.
    """
    path = Path(source)
    if not path.exists() and (named := hub_id(source)) is not None:
        path = download(*named, FILES)
    if not path.exists():
        raise PcmError(f"{path} does not exist: name {_KINDS}")
    if path.is_dir():
        with translating(str(path)):
            if (found := lerobot.read(path, language)) is not None:
                return found
        raise PcmError(f"{path} is no policy that can be imported: name {_KINDS}")
    if language.given:
        raise PcmError(f"{path}: {language.given}: this policy takes no instruction")
    with open_archive(path) as archive, translating(str(path)):
        if diffusion_policy.is_diffusion_policy(archive.content):
            return diffusion_policy.read(archive)
        if robomimic.is_robomimic(archive.content):
            return robomimic.read(archive)
    raise PcmError(f"{path} is a torch file, but no policy that can be imported: name {_KINDS}")
