"""Checkpoints of robomimic's ``diffusion_policy`` (0.4 and later) with the 1-D U-Net.

``save_model`` writes ``algo_name``, ``config`` (JSON), ``shape_metadata``, ``model`` with ``nets``
and ``ema``, and normalisation statistics. Rollouts use ``ema`` where ``algo.ema`` is enabled. The
observation is every key side by side, in the order of ``shape_metadata``, features in place of the
images of a ``VisualCore``; the first executed action belongs to the newest one. The sizes in
``algo.unet`` are not used by robomimic itself, so they are read off the weights.
"""

import json
from collections.abc import Mapping
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.build import Affine, Imported
from pcm_policy.adopt.cameras import (
    encoder,
    encoder_options,
    robomimic_places,
    vision_weights,
)
from pcm_policy.adopt.scheduler import Scheduling, scheduling
from pcm_policy.adopt.settings import Settings
from pcm_policy.adopt.sizes import unet_options
from pcm_policy.adopt.torchzip import Archive, plain
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.vision import VisionConfig

_NET = "policy.noise_pred_net."
_ENCODER = "policy.obs_encoder.nets.obs.obs_nets."
_TRAINING_ALONE = ("ColorRandomizer", "GaussianNoiseRandomizer")
"""Randomizers that return their input in evaluation."""


def is_robomimic(content: Any) -> bool:
    """Whether a checkpoint's content is one of robomimic, of any algorithm."""
    return isinstance(content, dict) and {"algo_name", "model", "config"} <= set(content)


def read(archive: Archive) -> Imported:
    """Translate a checkpoint.

    Raises:
        PcmError: another algorithm, images or goals, or an entry that is missing or bad.
    """
    file, content = str(archive.path), archive.content
    config, shapes = _settings(file, content)
    keys, cameras = _observation(config, shapes)
    fields = {name: prod(shape) for name, shape in keys.items() if name not in cameras}
    averaged = config.get("algo.ema.enabled", bool, False)
    nets = _nets(file, content, "ema" if averaged else "nets", bool(cameras))
    weights = archive.tensors(nets, _NET)
    vision: VisionConfig | None = None
    seen: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    if cameras:
        tensors = archive.tensors(nets, _ENCODER)
        vision, seen = _vision(config, tensors, keys, cameras)
        extra = {f"{_ENCODER}{k}": v for k, v in tensors.items()}
    found = _scheduling(config)
    action_keys, action = _action(config, shapes, shapes.count("shape_metadata.ac_dim"))
    ours = PolicyConfig(
        obs_dim=sum(fields.values()) if vision is None else vision.obs_dim,
        action_dim=shapes.count("shape_metadata.ac_dim"),
        horizon=config.count("algo.horizon.prediction_horizon"),
        obs_steps=config.count("algo.horizon.observation_horizon"),
        action_steps=config.count("algo.horizon.action_horizon"),
        network="unet1d",
        network_options=unet_options(file, weights),
        schedule=found.schedule,
        prediction=found.prediction,
        clip=found.clip,
        sampler=found.sampler,
        task=str(shapes.get("env_metadata.env_name", str, "")),
        control_hz=float(shapes.get("env_metadata.env_kwargs.control_freq", int | float, 10.0)),
        obs_fields=tuple(fields),
        action_field=action_keys[0],
        vision=vision,
    )
    obs = _observed(shapes, keys, cameras, vision)
    notes = ["observations have no recorded range: nothing is refused as out of range"]
    if len(action_keys) > 1:
        notes.append(f"the action is {' + '.join(action_keys)}: store them as one array to train")
    original = {
        "config": content["config"],
        "shape_metadata": shapes.get("shape_metadata", dict),
        "obs_normalization_stats": shapes.get("obs_normalization_stats", dict, None),
        "action_normalization_stats": shapes.get("action_normalization_stats", dict, None),
        "keys": fields,
        "cameras": list(cameras),
        "averaged": averaged,
    }
    return Imported(
        "robomimic", file, ours, weights, obs, action, original, tuple(notes), extra, seen
    )


def _observed(
    shapes: Settings,
    keys: Mapping[str, list[int]],
    cameras: Mapping[str, tuple[int, int]],
    vision: VisionConfig | None,
) -> Affine:
    """Return how the observation is normalised, the cameras' features as they are."""
    parts = []
    for name, shape in keys.items():
        if vision is not None and name in cameras:
            parts.append(Affine.identity(vision.feature_dim))
        else:
            parts.append(_obs_affine(shapes, name, prod(shape)))
    return Affine.join(parts)


def _settings(file: str, content: Mapping[str, Any]) -> tuple[Settings, Settings]:
    """Return a checkpoint's config, and what it says of shapes, statistics and environment."""
    if content["algo_name"] != "diffusion_policy":
        raise PcmError(
            f"{file}: algorithm {content['algo_name']!r}: only diffusion_policy can be imported"
        )
    try:
        config = Settings(file, json.loads(content["config"]))
    except (TypeError, ValueError, RecursionError) as error:
        raise PcmError(f"{file}: its config is no JSON ({error}): download it again") from error
    meta = {k: v for k, v in content.items() if k not in ("model", "config")}
    return config, Settings(file, plain(meta))


def _nets(file: str, content: Mapping[str, Any], part: str, cameras: bool) -> dict[str, Any]:
    """Return the networks of a checkpoint, ``ema`` or ``nets``."""
    nets = content["model"].get(part)
    if not isinstance(nets, dict):
        raise PcmError(f"{file} lacks model.{part}: it is cut short")
    found = [k for k in nets if str(k).startswith("policy.obs_encoder.")]
    if found and not cameras:
        raise PcmError(f"{file} has an observation encoder ({found[0]}) but no cameras")
    return nets


def _vision(
    config: Settings,
    tensors: Mapping[str, Tensor],
    keys: Mapping[str, list[int]],
    cameras: Mapping[str, tuple[int, int]],
) -> tuple[VisionConfig, dict[str, Tensor]]:
    """Return how the cameras are encoded, and the encoders' weights."""
    encoders = [encoder(tensors, robomimic_places(f"{name}.")) for name in cameras]
    layout = [name if name in cameras else prod(shape) for name, shape in keys.items()]
    options = {"layout": layout, "cameras": cameras, "crop": _crop(config, cameras)}
    vision = VisionConfig.from_dict(options | encoder_options(config.file, encoders[0]))
    channels = (torch.ones(3), torch.zeros(3))  # robomimic shows values in [0, 1]
    return vision, vision_weights(vision, encoders, dict.fromkeys(cameras, channels))


def _scheduling(config: Settings) -> Scheduling:
    """Return the sampler of evaluation."""
    name = "ddpm" if config.get("algo.ddpm.enabled", bool, False) else "ddim"
    algo = dict(config.get(f"algo.{name}", dict))
    if not algo.pop("enabled", False):
        raise PcmError(f"{config.file}: neither algo.ddpm nor algo.ddim is enabled")
    steps = config.count(f"algo.{name}.num_inference_timesteps")
    del algo["num_inference_timesteps"]
    return scheduling(config.file, name.upper(), algo, steps)


def _observation(
    config: Settings, shapes: Settings
) -> tuple[dict[str, list[int]], dict[str, tuple[int, int]]]:
    """Return the shapes of an observation's keys in robomimic's order, and its cameras' sizes."""
    for group in ("obs", "goal"):
        modalities = config.get(f"observation.modalities.{group}", dict, {})
        for kind, keys in modalities.items():
            if keys and (group, kind) not in (("obs", "low_dim"), ("obs", "rgb")):
                raise PcmError(
                    f"{config.file}: the policy sees {group} {kind} {keys[0]}; only low_dim and "
                    "rgb observations can be imported"
                )
    config.refuse(
        "observation.encoder.low_dim.core_class", None, "only plain observations are here"
    )
    rgb = config.get("observation.modalities.obs.rgb", list, [])
    used = {*config.get("observation.modalities.obs.low_dim", list), *rgb}
    every = shapes.get("shape_metadata.all_shapes", dict)
    keys = [key for key in every if key in used]
    lacking = sorted(used - set(keys))
    if lacking or not keys:
        raise PcmError(
            f"{config.file}: shape_metadata lacks the observation {(lacking or [''])[0]}"
        )
    for key in keys:
        shape = every[key]
        whole = isinstance(shape, list) and all(type(n) is int and 0 < n < 1e6 for n in shape)
        if not whole or (key in rgb and (len(shape) != 3 or shape[0] != 3)):
            raise PcmError(f"{config.file}: shape_metadata has {key} of shape {shape}")
        if key in rgb and key in (shapes.get("obs_normalization_stats", dict, None) or {}):
            raise PcmError(f"{config.file}: images of {key} are normalised: not importable so far")
    cameras = {key: (every[key][1], every[key][2]) for key in keys if key in rgb}
    return {key: every[key] for key in keys}, cameras


def _crop(config: Settings, cameras: Mapping[str, tuple[int, int]]) -> list[int] | None:
    """Return what is cut out of every image in evaluation."""
    rgb = "observation.encoder.rgb"
    config.refuse(f"{rgb}.core_class", "VisualCore", "not importable", "VisualCore")
    given = _crop_settings(config, rgb)
    if given is None:
        return None
    crop = [given.get("crop_height", 76), given.get("crop_width", 76)]
    for name, size in cameras.items():
        for whole, part in zip(size, crop, strict=True):
            if int((whole - part) / 2) != round((whole - part) / 2):
                raise PcmError(
                    f"{config.file}: robomimic cuts {crop} out of {name}'s {list(size)} half a "
                    "pixel from where this package does: not importable"
                )
    return crop


def _crop_settings(config: Settings, rgb: str) -> Mapping[str, Any] | None:
    """Return the settings of the one crop among the randomizers; None without any.

    robomimic takes one randomizer or a list of them (``obs_encoder_factory``). Those that change
    colours or add noise return their input in evaluation (``Randomizer._forward_in_eval``).
    """
    kinds = config.get(f"{rgb}.obs_randomizer_class", object, None)
    settings = config.get(f"{rgb}.obs_randomizer_kwargs", object, {})
    kinds = kinds if isinstance(kinds, list) else [kinds]
    settings = settings if isinstance(settings, list) else [settings]
    if len(kinds) != len(settings):
        raise PcmError(
            f"{config.file}: images have {len(kinds)} randomizers ({kinds}) and settings of "
            f"{len(settings)}: not importable"
        )
    crops = []
    for kind, given in zip(kinds, settings, strict=True):
        if kind is None or kind in _TRAINING_ALONE:
            continue
        given = {} if given is None else given
        plain = isinstance(given, Mapping) and not given.get("pos_enc", False)
        if kind != "CropRandomizer" or not plain or given.get("num_crops", 1) != 1:
            raise PcmError(f"{config.file}: images are changed by {kind} {given}: not importable")
        crops.append(given)
    if len(crops) > 1:
        raise PcmError(f"{config.file}: images are cropped {len(crops)} times: not importable")
    return crops[0] if crops else None


def _vector(file: str, stats: Mapping[str, Any], key: str, name: str, width: int) -> Tensor:
    try:
        found = torch.tensor(stats[key][name], dtype=torch.float64).flatten()
    except (KeyError, TypeError, ValueError) as error:
        raise PcmError(
            f"{file} lacks {name} of {key} among its statistics: a policy never runs without its "
            "normaliser"
        ) from error
    if len(found) != width:
        raise PcmError(f"{file}: {name} of {key} has {len(found)} dimensions, expected {width}")
    return found


def _obs_affine(shapes: Settings, key: str, width: int) -> Affine:
    """Read ``normalised = (raw - offset) / scale``; without statistics nothing is normalised."""
    stats = shapes.get("obs_normalization_stats", dict, None)
    if stats is None:
        return Affine.identity(width)
    old = isinstance(stats.get(key), dict) and "mean" in stats[key]
    names = ("mean", "std") if old else ("offset", "scale")
    offset, scale = (_vector(shapes.file, stats, key, name, width) for name in names)
    unknown = torch.full_like(offset, inf)
    return Affine(1 / scale, -offset / scale, -unknown, unknown)


def _action(config: Settings, shapes: Settings, width: int) -> tuple[list[str], Affine]:
    """Read ``raw = normalised * scale + offset`` of the action's parts, in order."""
    keys = config.get("train.action_keys", list, ["actions"])
    for key in keys:
        settings = config.get("train.action_config", dict, {}).get(key) or {}
        if settings.get("format") == "rot_6d":
            raise PcmError(
                f"{config.file}: {key} is a 6-D rotation that robomimic converts after sampling: "
                "not importable so far"
            )
    stats = shapes.get("action_normalization_stats", dict, None)
    if stats is None:
        return keys, Affine.identity(width, -1.0, 1.0)
    parts = []
    for key in keys:
        given = stats.get(key)
        size = torch.tensor(given["scale"]).numel() if isinstance(given, dict) else 0
        offset, scale = (_vector(config.file, stats, key, n, size) for n in ("offset", "scale"))
        parts.append(Affine(1 / scale, -offset / scale, offset - scale, offset + scale))
    return keys, Affine.join(parts)
