"""How a LeRobot policy normalises: buffers among its weights, or files of its processors."""

from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.build import Affine
from pcm_policy.adopt.cameras import vision_weights
from pcm_policy.adopt.lerobot_files import ACTION, load_json
from pcm_policy.errors import PcmError
from pcm_policy.policy.tensors import load_tensors
from pcm_policy.policy.vision import VisionConfig

_STEPS = {  # processor steps that change no number, or are read here
    "rename_observations_processor",
    "to_batch_processor",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
}
_FLAT = 5e-5  # raw units by which an action that never changed in training may move


def from_buffers(
    file: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, int], modes: Mapping[str, str]
) -> dict[str, Affine]:
    """Read the statistics among the weights (LeRobot before 0.4).

    Args:
        file: for messages.
        tensors: all of the weights.
        shapes: width of every feature.
        modes: how each is normalised.

    Raises:
        PcmError: statistics are missing or of another width.
    """
    found = {}
    for name, width in shapes.items():
        module = "unnormalize_outputs" if name == ACTION else "normalize_inputs"
        prefix = f"{module}.buffer_{name.replace('.', '_')}."
        stats = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        stats = _flat(stats)
        found[name] = affine(file, name, modes[name], stats, width, eps=1e-8, always_eps=True)
    return found


def from_processors(
    folder: Path, shapes: Mapping[str, int], modes: Mapping[str, str], *more: str
) -> tuple[dict[str, Affine], dict[str, str]]:
    """Read the statistics beside the processors (LeRobot 0.4 and later), and what is renamed.

    Args:
        folder: of the policy.
        shapes: width of every feature.
        modes: how each is normalised where its step does not say.
        more: further steps that the caller reads.

    Raises:
        PcmError: a file is missing or damaged, or a step is of another kind.
    """
    found: dict[str, Affine] = {}
    renamed: dict[str, str] = {}
    for which, wanted in (("pre", set(shapes) - {ACTION}), ("post", {ACTION})):
        file = folder / f"policy_{which}processor.json"
        kind = "normalizer_processor" if which == "pre" else "unnormalizer_processor"
        seen = False
        for step in steps(file, *more):
            config = step.get("config") or {}
            if step["registry_name"] == "rename_observations_processor":
                renamed |= {v: k for k, v in config.get("rename_map", {}).items()}
            if step["registry_name"] != kind:
                continue
            seen = True
            tensors = load_tensors(_beside(file, step))
            only = config.get("normalize_observation_keys")
            for name in wanted:
                mode = _mode(config, name, modes[name])
                if which == "pre" and only is not None and name not in only:
                    mode = "IDENTITY"
                stats = {
                    k.removeprefix(f"{name}."): v
                    for k, v in tensors.items()
                    if k.rpartition(".")[0] == name
                }
                stats = _flat(stats)
                eps = float(config.get("eps", 1e-8))
                found[name] = affine(str(file), name, mode, stats, shapes[name], eps=eps)
        if not seen:
            raise PcmError(f"{file} has no {kind}: a policy never runs without its normaliser")
    return found, renamed


def observed(affine: Mapping[str, Affine], names: list[str], vision: VisionConfig | None) -> Affine:
    """Return how the observation is normalised; features of cameras stand after the state."""
    parts = [affine[name] for name in names]
    if vision is not None:
        parts.insert(1, Affine.identity(len(vision.cameras) * vision.feature_dim))
    return Affine.join(parts)


def seen(
    affine: Mapping[str, Affine], vision: VisionConfig | None, encoders: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the weights of the encoders and how their images are normalised."""
    if vision is None:
        return {}
    channels = {k: (affine[k].scale, affine[k].shift) for k in vision.cameras}
    return vision_weights(vision, encoders, channels)


def range_notes(affine: Mapping[str, Affine], names: list[str]) -> tuple[str, ...]:
    """Return what a user must know of a policy that was read."""
    notes = ["LeRobot stores no control rate: control_hz is 10 unless you give it"]
    for name in names:
        if bool(affine[name].low.isinf().any()):
            notes.append(f"{name} has no recorded range: nothing is refused as out of range")
    return tuple(notes)


def _flat(stats: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the axes of height and width from the statistics of a camera."""
    return {k: v.flatten() if v.shape[1:] == (1, 1) else v for k, v in stats.items()}


def _mode(config: Mapping[str, Any], name: str, default: str) -> str:
    """Return how a step normalises a feature: its own mapping wins over ``config.json``."""
    try:
        kind = config["features"][name]["type"]
        return str(config["norm_map"].get(kind, "IDENTITY")).upper()
    except (KeyError, TypeError, AttributeError):
        return default


def steps(file: Path, *more: str) -> list[dict[str, Any]]:
    """Return the steps of a processor's file; one that is neither known nor in ``more`` raises."""
    found = load_json(file).get("steps")
    if not isinstance(found, list) or not all(isinstance(step, dict) for step in found):
        raise PcmError(f"{file} has no list of steps: download it again")
    for step in found:
        name = step.get("registry_name", step.get("class"))
        if name not in (*_STEPS, *more):
            raise PcmError(f"{file}: processor step {name!r} cannot be imported")
    return found


def _beside(file: Path, step: Mapping[str, Any]) -> Path:
    """Return the statistics file of a step; a name that leads elsewhere is refused."""
    name = step.get("state_file")
    if not isinstance(name, str) or Path(name).name != name:
        raise PcmError(
            f"{file}: step {step['registry_name']} has state_file {name!r}: expected a file beside "
            "it; a policy never runs without its normaliser"
        )
    return file.with_name(name)


def affine(
    file: str,
    name: str,
    mode: str,
    stats: Mapping[str, Tensor],
    width: int,
    *,
    eps: float,
    always_eps: bool = False,
) -> Affine:
    """Write LeRobot's (un)normalisation of one feature as an affine map.

    Observations use its forward formula, the action its inverse one; they differ by ``eps``. A
    dimension that never changed would be divided by ``eps``: observations of it keep their unit
    instead, and an action of it moves over 1e-4 raw units. At the recorded value both agree with
    LeRobot.
    """
    unknown = torch.full((width,), inf)  # one end alone would be no range
    both = "min" in stats and "max" in stats
    low, high = (stats["min"], stats["max"]) if both else (-unknown, unknown)
    if mode == "IDENTITY":
        ones = torch.ones(width, dtype=torch.float64)
        return Affine(ones, 0 * ones, low.double(), high.double())
    pairs = {
        "MIN_MAX": ("min", "max"),
        "MEAN_STD": ("mean", "std"),
        "QUANTILES": ("q01", "q99"),
        "QUANTILE10": ("q10", "q90"),
    }
    if mode not in pairs:
        raise PcmError(f"{file}: normalisation {mode!r} of {name} cannot be imported")
    for key in pairs[mode]:
        if key not in stats or stats[key].ndim != 1 or not bool(stats[key].isfinite().all()):
            raise PcmError(
                f"{file} lacks finite statistics of {name} ({key}), which {mode} needs: a policy "
                "never runs without its normaliser"
            )
    first, second = (stats[key].double() for key in pairs[mode])
    if first.shape != second.shape or len(first) != width:
        raise PcmError(
            f"{file}: statistics of {name} have {len(first)} dimensions, config.json says {width}"
        )
    spread = second if mode == "MEAN_STD" else (second - first) / 2
    offset = 0.0 if mode == "MEAN_STD" else -1.0
    flat = spread == 0
    if name == ACTION:
        divisor = torch.where(flat, _FLAT, spread)
    else:
        added = eps / (1 if mode == "MEAN_STD" else 2) if always_eps or mode == "MEAN_STD" else 0.0
        divisor = torch.where(flat, 1.0, spread + added)
    scale = 1.0 / divisor
    return Affine(scale, offset - first * scale, low.double(), high.double())
