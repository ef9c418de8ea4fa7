"""Checkpoints of robomimic's ``diffusion_policy`` (0.4 and later): low-dimensional, 1-D U-Net.

``save_model`` writes ``algo_name``, ``config`` (JSON), ``shape_metadata``, ``model`` with ``nets``
and ``ema``, and normalisation statistics. Rollouts use ``ema`` where ``algo.ema`` is enabled. The
observation is every low-dimensional key side by side, in the order of ``shape_metadata``; the first
executed action belongs to the newest one. The sizes in ``algo.unet`` are not used by robomimic
itself, so they are read off the weights.
"""

import json
from collections.abc import Mapping
from math import inf, prod
from typing import Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.imports.build import Affine, Imported
from pcm_policy.imports.scheduler import scheduling
from pcm_policy.imports.settings import Settings
from pcm_policy.imports.sizes import unet_options
from pcm_policy.imports.torchzip import Archive, plain
from pcm_policy.policy import PolicyConfig

_NET = "policy.noise_pred_net."


def is_robomimic(content: Any) -> bool:
    """Whether a checkpoint's content is one of robomimic, of any algorithm."""
    return isinstance(content, dict) and {"algo_name", "model", "config"} <= set(content)


def read(archive: Archive) -> Imported:
    """Translate a checkpoint.

    Raises:
        PcmError: another algorithm, images or goals, or an entry that is missing or bad.
    """
    file, content = str(archive.path), archive.content
    if content["algo_name"] != "diffusion_policy":
        raise PcmError(
            f"{file}: algorithm {content['algo_name']!r}: only diffusion_policy can be imported"
        )
    try:
        config = Settings(file, json.loads(content["config"]))
    except (TypeError, ValueError, RecursionError) as error:
        raise PcmError(f"{file}: its config is no JSON ({error}): download it again") from error
    meta = {k: v for k, v in content.items() if k not in ("model", "config")}
    shapes = Settings(file, plain(meta))
    keys, widths = _observation(config, shapes)
    action_dim = shapes.count("shape_metadata.ac_dim")
    averaged = config.get("algo.ema.enabled", bool, False)
    nets = content["model"].get("ema" if averaged else "nets")
    if not isinstance(nets, dict):
        raise PcmError(f"{file} lacks model.{'ema' if averaged else 'nets'}: it is cut short")
    encoder = [k for k in nets if str(k).startswith("policy.obs_encoder.")]
    if encoder:
        raise PcmError(f"{file} has an observation encoder ({encoder[0]}): not importable so far")
    weights = archive.tensors(nets, _NET)
    name = "ddpm" if config.get("algo.ddpm.enabled", bool, False) else "ddim"
    algo = dict(config.get(f"algo.{name}", dict))
    if not algo.pop("enabled", False):
        raise PcmError(f"{file}: neither algo.ddpm nor algo.ddim is enabled")
    steps = config.count(f"algo.{name}.num_inference_timesteps")
    del algo["num_inference_timesteps"]
    found = scheduling(file, name.upper(), algo, steps)
    action_keys, action = _action(config, shapes, action_dim)
    ours = PolicyConfig(
        obs_dim=sum(widths),
        action_dim=action_dim,
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
        obs_fields=tuple(keys),
        action_field=action_keys[0],
    )
    obs = Affine.join([_obs_affine(shapes, k, w) for k, w in zip(keys, widths, strict=True)])
    notes = ["observations have no recorded range: nothing is refused as out of range"]
    if len(action_keys) > 1:
        notes.append(f"the action is {' + '.join(action_keys)}: store them as one array to train")
    original = {
        "config": content["config"],
        "shape_metadata": shapes.get("shape_metadata", dict),
        "obs_normalization_stats": shapes.get("obs_normalization_stats", dict, None),
        "action_normalization_stats": shapes.get("action_normalization_stats", dict, None),
        "keys": dict(zip(keys, widths, strict=True)),
        "averaged": averaged,
    }
    return Imported("robomimic", file, ours, weights, obs, action, original, tuple(notes))


def _observation(config: Settings, shapes: Settings) -> tuple[list[str], list[int]]:
    """Return the keys of an observation in robomimic's order, and their widths."""
    for group in ("obs", "goal"):
        modalities = config.get(f"observation.modalities.{group}", dict, {})
        for kind, keys in modalities.items():
            if keys and (group, kind) != ("obs", "low_dim"):
                raise PcmError(
                    f"{config.file}: the policy sees {group} {kind} {keys[0]}; only low_dim "
                    "observations can be imported so far"
                )
    config.refuse(
        "observation.encoder.low_dim.core_class", None, "only plain observations are here"
    )
    used = set(config.get("observation.modalities.obs.low_dim", list))
    every = shapes.get("shape_metadata.all_shapes", dict)
    keys = [key for key in every if key in used]
    lacking = sorted(used - set(keys))
    if lacking or not keys:
        raise PcmError(
            f"{config.file}: shape_metadata lacks the observation {(lacking or [''])[0]}"
        )
    widths = []
    for key in keys:
        shape = every[key]
        if not isinstance(shape, list) or not all(type(n) is int and 0 < n < 1e6 for n in shape):
            raise PcmError(f"{config.file}: shape_metadata has {key} of shape {shape}")
        widths.append(prod(shape))
    return keys, widths


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
