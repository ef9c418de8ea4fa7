"""Where a LeRobot policy lies: a folder, a checkpoint, or the whole folder of a training run.

``outputs/train/X/checkpoints/NNN/pretrained_model`` holds config, weights and processors. A run
with averaged weights has them in ``pretrained_model_ema`` beside it, laid out alike; they are what
LeRobot evaluates, and are preferred here unless ``pretrained_model`` itself is named.
``checkpoints/last`` is a link to the newest one, and may be missing from a copy. A run over many
GPUs may keep its weights in shards (``pytorch_model_fsdp_0``), which LeRobot's own command joins.
"""

import json
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError

STATE, ENV, ACTION = "observation.state", "observation.environment_state", "action"
FILES = ("config.json", "model.safetensors", "policy_*processor*")
"""What an import fetches from the hub."""
PLAIN, AVERAGED = "pretrained_model", "pretrained_model_ema"
_SHARDS = "pytorch_model_fsdp_0"


def is_lerobot(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot policy of any kind."""
    if not (folder / "config.json").is_file():
        return False
    config = load_json(folder / "config.json")
    return any(key in config for key in ("type", "input_features", "input_shapes"))


def locate(path: Path) -> tuple[Path, tuple[str, ...]] | None:
    """Find the policy's folder in what a user named.

    Args:
        path: the folder itself, a checkpoint, ``checkpoints``, or the folder of a run.

    Returns:
        The folder and what was chosen on the way, a line each; None where no policy is.

    Raises:
        PcmError: the weights are shards.
    """
    notes: list[str] = []
    for folder in (path / "checkpoints", path):
        if not is_lerobot(path) and (newest := _newest(folder)) is not None:
            notes.append(f"checkpoint {newest.resolve().name} of the run")
            path = newest
            break
    for folder in (path, path / AVERAGED, path / PLAIN):
        if is_lerobot(folder):
            _refuse_shards(folder)
            return folder, (*notes, *_weights_taken(folder))
    return None


def load_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PcmError: it is none, or damaged.
    """
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise PcmError(f"{file} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(data, dict):
        raise PcmError(f"{file} is no JSON object: download it again")
    return data


def _newest(folder: Path) -> Path | None:
    """Return ``last`` of a folder of checkpoints, or the one with the highest number."""
    if (folder / "last").is_dir():
        return folder / "last"
    numbered = [one for one in folder.glob("*") if one.name.isdecimal() and one.is_dir()]
    return max(numbered, key=lambda one: int(one.name), default=None)


def _weights_taken(folder: Path) -> tuple[str, ...]:
    """Return what to say where there are averaged weights and others."""
    if folder.name == AVERAGED:
        return (f"averaged weights ({AVERAGED})",)
    if folder.name == PLAIN and is_lerobot(folder.with_name(AVERAGED)):
        return (f"the weights of {PLAIN}; beside it are averaged ones, {AVERAGED}",)
    return ()


def _refuse_shards(folder: Path) -> None:
    if (folder / _SHARDS).is_dir() and not (folder / "model.safetensors").is_file():
        raise PcmError(
            f"{folder / _SHARDS} holds shards of the weights, as training over many GPUs leaves "
            f"them: run lerobot-convert-dcp --checkpoint_dir={folder.parent} first, and import "
            "what it writes"
        )
