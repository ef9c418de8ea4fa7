"""LeRobot ``diffusion`` policies: ``config.json`` and ``model.safetensors`` of a folder.

Three layouts exist (read from LeRobot 0.4.4 and its own migration script):

- processor files (from 0.4): ``policy_preprocessor.json`` names a ``normalizer_processor`` step
  whose statistics lie in a safetensors file beside it, the post-processor likewise;
- buffers (0.1 to 0.3): ``normalize_inputs.buffer_observation_state.min`` and so on in the weights,
  dots of the feature's name written as underscores, ``normalization_mapping`` in the config;
- buffers with ``input_shapes`` and ``input_normalization_modes`` in the config (before 0.1).

The features of the cameras, in the order of the config, stand between state and environment state
(``DiffusionModel._prepare_global_conditioning``).

The chunk starts at the first observed frame and the first executed action belongs to the newest
one, as here (``DiffusionModel.generate_actions``).
"""

import json
import re
from collections.abc import Mapping
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.build import Affine, Imported
from pcm_policy.adopt.cameras import Places, encoder, encoder_options, vision_weights
from pcm_policy.adopt.scheduler import scheduling
from pcm_policy.adopt.sizes import unet_options
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.folder import load_tensors
from pcm_policy.policy.vision import VisionConfig

STATE, ENV, ACTION = "observation.state", "observation.environment_state", "action"
FILES = ("config.json", "model.safetensors", "policy_*processor*")
"""What an import fetches from the hub."""
_SCHEDULER = {
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "clip_sample",
    "clip_sample_range",
    "prediction_type",
}
_STEPS = {  # processor steps that change no number, or are read here
    "rename_observations_processor",
    "to_batch_processor",
    "device_processor",
    "normalizer_processor",
    "unnormalizer_processor",
}
_WIDEST = 100_000  # numbers in one feature: a config could name any
_FLAT = 5e-5  # raw units by which an action that never changed in training may move


def is_lerobot(folder: Path) -> bool:
    """Whether a folder looks like a LeRobot policy of any kind."""
    if not (folder / "config.json").is_file():
        return False
    config = _json(folder / "config.json")
    return any(key in config for key in ("type", "input_features", "input_shapes"))


def read(folder: Path) -> Imported:
    """Translate a LeRobot ``diffusion`` policy.

    Raises:
        PcmError: another policy, or a file or entry that is missing, damaged or of a kind that this
            package does not have.
    """
    config = _json(folder / "config.json")
    where = str(folder / "config.json")
    kind = config.get("type", "diffusion" if "noise_scheduler_type" in config else "unknown")
    if kind != "diffusion":
        raise PcmError(f"{where}: policy type {kind!r}: only LeRobot's diffusion can be imported")
    shapes, modes, unused = _features(where, config)
    cameras = {k: (v[1], v[2]) for k, v in shapes.items() if len(v) == 3}
    widths = {k: v[0] for k, v in shapes.items()}  # of a camera: its channels
    names = [STATE, *([ENV] if ENV in shapes else [])]
    tensors, weights = _weights(file := folder / "model.safetensors")
    renamed: dict[str, str] = {}
    if (folder / "policy_preprocessor.json").is_file():
        affine, renamed = _from_processors(folder, widths, modes)
    else:
        affine = _from_buffers(str(file), tensors, widths, modes)
    vision, encoders = _vision(str(file), config, tensors, cameras, widths)
    try:
        found = scheduling(
            where,
            config["noise_scheduler_type"],
            {k: config[k] for k in _SCHEDULER if k in config},
            config.get("num_inference_steps"),
        )
        ours = PolicyConfig(
            obs_dim=vision.obs_dim if vision is not None else sum(widths[n] for n in names),
            action_dim=widths[ACTION],
            horizon=config["horizon"],
            obs_steps=config["n_obs_steps"],
            action_steps=config["n_action_steps"],
            network="unet1d",
            network_options=unet_options(str(file), weights, config.get("n_groups", 8)),
            schedule=found.schedule,
            prediction=found.prediction,
            clip=found.clip,
            sampler=found.sampler,
            task=str(config.get("repo_id") or folder.name),
            obs_fields=tuple(renamed.get(n, n) for n in names),
            action_field=ACTION,
            vision=vision,
        )
    except (KeyError, TypeError) as error:
        raise PcmError(f"{where}: missing or bad entry ({error})") from error
    return Imported(
        "lerobot",
        str(file),
        ours,
        weights,
        _observed(affine, names, len(cameras), vision),
        affine[ACTION],
        {"folder": str(folder.resolve()), "widths": {n: widths[n] for n in names}},
        (*_notes(affine, names), *unused),
        vision=_seen(affine, cameras, vision, encoders),
    )


def _weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return all tensors of a policy, and the U-Net's by this package's names."""
    tensors = {k.replace("_orig_mod.", ""): v for k, v in load_tensors(file).items()}
    unet = "diffusion.unet."
    weights = {_ours(k.removeprefix(unet)): v for k, v in tensors.items() if k.startswith(unet)}
    if not weights:
        raise PcmError(f"{file} holds no {unet}*: it is no LeRobot diffusion policy")
    return tensors, weights


def _observed(
    affine: Mapping[str, Affine], names: list[str], cameras: int, vision: VisionConfig | None
) -> Affine:
    """Return how the observation is normalised; features of cameras stand after the state."""
    parts = [affine[name] for name in names]
    if vision is not None:
        parts.insert(1, Affine.identity(cameras * vision.feature_dim))
    return Affine.join(parts)


def _seen(
    affine: Mapping[str, Affine],
    cameras: Mapping[str, tuple[int, int]],
    vision: VisionConfig | None,
    encoders: list[dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return the weights of the encoders and how their images are normalised."""
    if vision is None:
        return {}
    channels = {k: (affine[k].scale, affine[k].shift) for k in cameras}
    return vision_weights(vision, encoders, channels)


def _notes(affine: Mapping[str, Affine], names: list[str]) -> tuple[str, ...]:
    """Return what a user must know of a policy that was read."""
    notes = ["LeRobot stores no control rate: control_hz is 10 unless you give it"]
    for name in names:
        if bool(affine[name].low.isinf().any()):
            notes.append(f"{name} has no recorded range: nothing is refused as out of range")
    return tuple(notes)


def _vision(
    file: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    cameras: Mapping[str, tuple[int, int]],
    widths: Mapping[str, int],
) -> tuple[VisionConfig | None, list[dict[str, Tensor]]]:
    """Return how the cameras are encoded, and the encoders' weights; None and [] without any."""
    if not cameras:
        return None, []
    prefix = "diffusion.rgb_encoder."
    separate = config.get("use_separate_rgb_encoder_per_camera", False)
    starts = [f"{prefix}{i}." for i in range(len(cameras))] if separate else [prefix]
    encoders = []
    for start in starts:
        places = Places(f"{start}backbone.", pool=f"{start}pool.nets.", out=f"{start}out.")
        encoders.append(encoder(tensors, places))
    resize, crop = config.get("resize_shape"), config.get("crop_shape")
    if resize is not None:  # LeRobot then derives the crop from a ratio
        ratio = config.get("crop_ratio", 1.0)
        crop = [int(n * ratio) for n in resize] if ratio < 1 else None
    vision = VisionConfig.from_dict(
        {
            "layout": [widths[STATE], *cameras, *([widths[ENV]] if ENV in widths else [])],
            "cameras": cameras,
            "shared": not separate,
            "resize": resize,
            "crop": crop,
        }
        | encoder_options(file, encoders[0])
    )
    return vision, encoders


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise PcmError(f"{file} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(data, dict):
        raise PcmError(f"{file} is no JSON object: download it again")
    return data


def _features(
    where: str, config: Mapping[str, Any]
) -> tuple[dict[str, list[int]], dict[str, str], tuple[str, ...]]:
    """Return shape and normalisation of every feature; of a camera channels, height and width.

    LeRobot lists whatever was recorded; its diffusion policy uses state, environment state, images
    and ``action`` alone (``robot_state_feature`` and so on). The rest is left out, and noted.
    """
    try:
        if "input_shapes" in config:
            both = config["input_shapes"] | config["output_shapes"]
            shapes = {k: list(v) for k, v in both.items()}
            images = {k for k in shapes if k.startswith("observation.image")}
            modes = config["input_normalization_modes"] | config["output_normalization_modes"]
        else:
            features = config["input_features"] | config["output_features"]
            shapes = {k: list(v["shape"]) for k, v in features.items()}
            mapping = config["normalization_mapping"]
            # as in LeRobot: a type that the mapping leaves out is not normalised
            modes = {k: mapping.get(v["type"], "IDENTITY") for k, v in features.items()}
            images = {k for k, v in features.items() if v["type"] == "VISUAL"}
    except (KeyError, TypeError, AttributeError) as error:
        raise PcmError(f"{where}: no features with shapes and normalisation ({error!r})") from error
    for name in (STATE, ACTION):
        if name not in shapes:
            raise PcmError(f"{where}: the policy has no {name}")
    unused = [name for name in shapes if name not in (STATE, ENV, ACTION, *images)]
    shapes = {name: shape for name, shape in shapes.items() if name not in unused}
    for name, shape in shapes.items():
        camera = name not in (STATE, ENV, ACTION)
        whole = all(type(n) is int and 0 < n <= _WIDEST for n in shape)
        if not whole or len(shape) != (3 if camera else 1) or (camera and shape[0] != 3):
            kind = "an image (3, H, W)" if camera else "one axis"
            raise PcmError(f"{where}: {name} has shape {shape}, expected {kind}")
    notes = [f"{name} is not used, as by LeRobot's diffusion policy" for name in unused]
    return shapes, {k: str(v).upper() for k, v in modes.items()}, tuple(notes)


def _ours(name: str) -> str:
    """Give a weight of LeRobot's U-Net the name that ours has for it."""
    for theirs, ours in (
        (r"\.conv1\.block\.", ".blocks.0.block."),
        (r"\.conv2\.block\.", ".blocks.1.block."),
        (r"^(down|up)_modules\.(\d+)\.2\.(weight|bias)$", r"\1_modules.\2.2.conv.\3"),
    ):
        name = re.sub(theirs, ours, name)
    return name


def _from_buffers(
    file: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, int], modes: Mapping[str, str]
) -> dict[str, Affine]:
    """Read the statistics among the weights (LeRobot before 0.4)."""
    found = {}
    for name, width in shapes.items():
        module = "unnormalize_outputs" if name == ACTION else "normalize_inputs"
        prefix = f"{module}.buffer_{name.replace('.', '_')}."
        stats = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        stats = _flat(stats)
        found[name] = _affine(file, name, modes[name], stats, width, eps=1e-8, always_eps=True)
    return found


def _from_processors(
    folder: Path, shapes: Mapping[str, int], modes: Mapping[str, str]
) -> tuple[dict[str, Affine], dict[str, str]]:
    """Read the statistics beside the processors (LeRobot 0.4 and later), and what is renamed."""
    found: dict[str, Affine] = {}
    renamed: dict[str, str] = {}
    for which, wanted in (("pre", set(shapes) - {ACTION}), ("post", {ACTION})):
        file = folder / f"policy_{which}processor.json"
        kind = "normalizer_processor" if which == "pre" else "unnormalizer_processor"
        seen = False
        for step in _steps(file):
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
                found[name] = _affine(str(file), name, mode, stats, shapes[name], eps=eps)
        if not seen:
            raise PcmError(f"{file} has no {kind}: a policy never runs without its normaliser")
    return found, renamed


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


def _steps(file: Path) -> list[dict[str, Any]]:
    steps = _json(file).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise PcmError(f"{file} has no list of steps: download it again")
    for step in steps:
        name = step.get("registry_name", step.get("class"))
        if name not in _STEPS:
            raise PcmError(f"{file}: processor step {name!r} cannot be imported")
    return steps


def _beside(file: Path, step: Mapping[str, Any]) -> Path:
    """Return the statistics file of a step; a name that leads elsewhere is refused."""
    name = step.get("state_file")
    if not isinstance(name, str) or Path(name).name != name:
        raise PcmError(
            f"{file}: step {step['registry_name']} has state_file {name!r}: expected a file beside "
            "it; a policy never runs without its normaliser"
        )
    return file.with_name(name)


def _affine(
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
