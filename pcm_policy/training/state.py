"""Training checkpoints: complete, atomic, and enough to continue bitwise on the CPU.

::

    checkpoints/step-00001000/
        model.safetensors      trained weights
        ema.safetensors        averaged weights
        optimizer.safetensors  one entry per parameter and statistic
        objective.safetensors  what the objective keeps from one step to the next, often nothing
        state.json             step, digests of these files, and what the run was made from

All randomness of a step is a function of (seed, step): the two numbers are the generators' state.
What a run was made from, its settings and digests of its data, is compared when it resumes.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pcm_policy.errors import PcmError
from pcm_policy.files import atomic_folder, to_json
from pcm_policy.policy.tensors import load_tensors, save_tensors
from pcm_policy.training.saying import say

FORMAT = 2
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A step from which a run can continue.

    Attributes:
        step: number of completed steps.
        parts: tensors by file, ``model``, ``ema``, ``optimizer`` and ``objective``.
    """

    step: int
    parts: Mapping[str, Tensors]

    def restore(
        self,
        module: nn.Module,
        ema: AveragedModel,
        optimizer: Any,
        placed: Callable[[Tensor, Tensor], Tensor] = lambda value, _: value,
    ) -> None:
        """Put weights, averages and moments back.

        Args:
            module: trained weights.
            ema: averaged weights.
            optimizer: of the weights.
            placed: gives a value the layout of the parameter or moment that it is for.

        Raises:
            PcmError: they do not fit the module.
        """
        statistics: dict[int, Tensors] = {}
        parameters = list(module.parameters())
        for name, value in self.parts["optimizer"].items():
            index, key = name.split(".", 1)
            like = parameters[int(index)] if int(index) < len(parameters) else value
            value = placed(value, like) if value.shape == like.shape else value
            statistics.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        try:
            for part, name in ((module, "model"), (ema, "ema")):
                own = part.state_dict()
                found = self.parts[name]
                part.load_state_dict({k: placed(v, own.get(k, v)) for k, v in found.items()})
            optimizer.load_state_dict({"state": statistics, "param_groups": groups})
        except (RuntimeError, ValueError, KeyError) as error:
            first = str(error).splitlines()[0]
            raise PcmError(
                f"checkpoint of step {self.step} is of another model ({first})"
            ) from error


def save_state(
    root: Path,
    step: int,
    parts: Mapping[str, Tensors],
    made_from: Mapping[str, Any],
    keep: int,
) -> None:
    """Write the checkpoint of ``step`` and delete all but the ``keep`` newest.

    Args:
        root: folder of the checkpoints.
        step: steps that are done.
        parts: what :func:`parts_of` returns, and what the objective keeps between steps.
        made_from: settings and digests that a resumed run must share, as :func:`flat` returns them.
        keep: checkpoints kept.

    Raises:
        PcmError: the folder cannot be written; older checkpoints are untouched.
    """
    with atomic_folder(root / f"step-{step:08d}") as folder:
        digests = {}
        for name, tensors in parts.items():
            file = folder / f"{name}.safetensors"
            save_tensors(_plain(tensors), file)
            digests[file.name] = _digest(file)
        state = {"format": FORMAT, "step": step, "files": digests, "made_from": dict(made_from)}
        (folder / "state.json").write_text(to_json(state))
    for old in _folders(root)[:-keep]:
        old.rename(root / f".{old.name}-old")  # a kill here must not leave half a checkpoint
    for stale in root.glob(".step-*"):
        shutil.rmtree(stale, ignore_errors=True)


def parts_of(module: nn.Module, ema: AveragedModel, optimizer: Any) -> dict[str, Tensors]:
    """Return the tensors of a checkpoint by file, those of the objective left out.

    Args:
        module: trained weights.
        ema: averaged weights.
        optimizer: whose moments are kept.
    """
    statistics = optimizer.state_dict()["state"]
    moments = {f"{i}.{k}": v for i, entry in statistics.items() for k, v in entry.items()}
    return {"model": module.state_dict(), "ema": ema.state_dict(), "optimizer": moments}


def newest_state(root: Path, made_from: Mapping[str, Any]) -> Checkpoint | None:
    """Read the newest checkpoint below ``root`` that is whole; None where there is none at all.

    One that is damaged is passed over: a line says so, and it is set aside as ``damaged-step-...``.

    Raises:
        PcmError: all are damaged, or it was written by a run that was made from something else.
    """
    damaged: list[str] = []
    for folder in reversed(_folders(root)):
        try:
            state = _read_state(folder)
            parts = _read_parts(folder, state)
        except PcmError as error:
            damaged.append(str(error))
            continue
        _compare(folder, state["made_from"], made_from)
        if damaged:
            say(f"{'; '.join(damaged)}: going on from step {state['step']}")
            _set_aside(root, folder)
        return Checkpoint(state["step"], parts)
    if damaged:
        raise PcmError(
            f"{'; '.join(damaged)}, and there is no older checkpoint: choose another output_dir"
        )
    return None


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as ``{"train.lr": 0.001, ...}``, values as JSON has them.

    Example:
        >>> flat({"train": {"lr": 0.1}, "data": {"fields": ("a", "b")}})
        {'train.lr': 0.1, 'data.fields': ['a', 'b']}
    """
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return found


def _compare(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse the first setting that differs; the learning rate may have been lowered."""
    for key in [*now, *(k for k in then if k not in now)]:
        old, new = then.get(key), now.get(key)
        if old == new and (key in then) == (key in now):
            continue
        if key == "train.lr" and old is not None and new is not None and new < old:
            say(f"train.lr was {old:g} and is {new:g} from here on")
            continue
        raise PcmError(
            f"{folder} was written with {key}={old!r}, now {new!r}: resume with the same settings "
            "and data or choose another output_dir"
        )


def _read_state(folder: Path) -> dict[str, Any]:
    file = folder / "state.json"
    try:
        state = json.loads(file.read_text())
        step, files, made_from = (state[key] for key in ("step", "files", "made_from"))
        whole = state["format"] == FORMAT and type(step) is int and step >= 0
        if not whole or not isinstance(files, dict) or not isinstance(made_from, dict):
            raise ValueError(f"format {state['format']!r}, this version writes {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PcmError(f"{file} is damaged ({error!r})") from error
    return state  # type: ignore[no-any-return]


def _read_parts(folder: Path, state: Mapping[str, Any]) -> dict[str, Tensors]:
    parts = {}
    for name in ("model", "ema", "optimizer", "objective"):
        file = folder / f"{name}.safetensors"
        try:
            whole = _digest(file) == state["files"].get(file.name)
        except OSError as error:
            raise PcmError(f"{file} cannot be read ({error})") from error
        if not whole:
            raise PcmError(f"{file} is damaged (not the file that was written)")
        parts[name] = load_tensors(file)
    return parts


def _set_aside(root: Path, good: Path) -> None:
    """Rename checkpoints that are newer than a good one, so that they are not kept for it."""
    for folder in _folders(root):
        if folder.name > good.name:
            target = root / f"damaged-{folder.name}"
            shutil.rmtree(target, ignore_errors=True)
            os.replace(folder, target)


def _folders(root: Path) -> list[Path]:
    return sorted(root.glob("step-*"))


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _plain(tensors: Mapping[str, Tensor]) -> Tensors:
    return {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
