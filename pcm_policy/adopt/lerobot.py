"""LeRobot policies: which kind a folder holds, and who reads it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pcm_policy.adopt import lerobot_dit, lerobot_unet
from pcm_policy.adopt.build import Imported
from pcm_policy.adopt.clip import Language
from pcm_policy.adopt.lerobot_files import load_json, locate
from pcm_policy.errors import PcmError

OUTSIDE = ("smolvla", "pi0", "pi05")
"""Policies that stay in LeRobot and are solved from outside."""


def read(path: Path, language: Language) -> Imported | None:
    """Translate a ``diffusion`` or ``multi_task_dit`` policy.

    Args:
        path: the policy's folder, a checkpoint, or the folder of a run.
        language: what the policy is told to do, for one that takes instructions.

    Returns:
        What was read; None if no LeRobot policy is there.

    Raises:
        PcmError: another policy, or a file or entry that is missing, damaged or of a kind that this
            package does not have.
    """
    place = locate(path)
    if place is None:
        return None
    folder, notes = place
    where = str(folder / "config.json")
    config = load_json(folder / "config.json")
    kind = _kind(where, config)
    if kind == "multi_task_dit":
        found = lerobot_dit.read(folder, where, config, language)
    else:
        if language.given:
            raise PcmError(f"{where}: {language.given}: a diffusion policy takes no instruction")
        found = lerobot_unet.read(folder, where, config)
    return replace(found, notes=(*notes, *found.notes))


def _kind(where: str, config: Mapping[str, Any]) -> str:
    """Return the policy's type; before LeRobot 0.1.1 a config had none."""
    kind = config.get("type", "diffusion" if "noise_scheduler_type" in config else "unknown")
    if kind in ("diffusion", "multi_task_dit"):
        return str(kind)
    way = "; inside LeRobot pcm_policy.adopt.parallel solves it in parallel rounds (docs/vla.md)"
    raise PcmError(
        f"{where}: policy type {kind!r}: only LeRobot's diffusion and multi_task_dit can be "
        f"imported{way if kind in OUTSIDE else ''}"
    )
