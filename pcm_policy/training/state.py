"""Training checkpoints: complete, atomic, and enough to continue bitwise on the CPU.

::

    checkpoints/step-00001000/
        model.safetensors      trained weights
        ema.safetensors        averaged weights
        optimizer.safetensors  one entry per parameter and statistic
        state.json             step, seed, config

All randomness of a step is a function of (seed, step): the two numbers are the generators' state.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, to_json
from pcm_policy.policy.folder import load_tensors, save_tensors


def save_state(
    root: Path,
    step: int,
    module: nn.Module,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of ``step`` and delete all but the ``keep`` newest.

    Raises:
        PcmError: the folder cannot be written; older checkpoints are untouched.
    """
    with atomic_folder(root / f"step-{step:08d}") as folder:
        save_tensors(_plain(module.state_dict()), folder / "model.safetensors")
        save_tensors(_plain(ema.state_dict()), folder / "ema.safetensors")
        statistics = optimizer.state_dict()["state"]
        flat = {f"{i}.{k}": v for i, entry in statistics.items() for k, v in entry.items()}
        save_tensors(_plain(flat), folder / "optimizer.safetensors")
        (folder / "state.json").write_text(to_json({"step": step, "config": config}))
    for old in _steps(root)[:-keep]:
        old.rename(root / f".{old.name}-old")  # a kill here must not leave half a checkpoint
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale, ignore_errors=True)


def load_state(
    root: Path,
    module: nn.Module,
    ema: AveragedModel,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
) -> int:
    """Restore the newest checkpoint below ``root``.

    Returns:
        The step it was written after, 0 where there is none.

    Raises:
        PcmError: the checkpoint is damaged, or was written under another config.
    """
    folders = _steps(root)
    if not folders:
        return 0
    folder = folders[-1]
    try:
        state = json.loads((folder / "state.json").read_text())
    except (OSError, ValueError) as error:
        raise PcmError(f"{folder}/state.json is damaged ({error}): delete {folder}") from error
    free = ("log_every", "save_every", "keep")  # change no weight
    changed = [k for k in config if k not in free and state["config"].get(k) != config[k]]
    if changed:
        key = changed[0]
        raise PcmError(
            f"{folder} was written with {key}={state['config'].get(key)!r}, now {config[key]!r}: "
            "resume with the same settings or choose another output_dir"
        )
    module.load_state_dict(load_tensors(folder / "model.safetensors"))
    ema.load_state_dict(load_tensors(folder / "ema.safetensors"))
    statistics: dict[int, dict[str, Tensor]] = {}
    for name, value in load_tensors(folder / "optimizer.safetensors").items():
        index, key = name.split(".", 1)
        statistics.setdefault(int(index), {})[key] = value
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": statistics, "param_groups": groups})
    return int(state["step"])


def _steps(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
