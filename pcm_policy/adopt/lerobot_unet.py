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

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pcm_policy.adopt.build import Imported
from pcm_policy.adopt.cameras import Places, encoder, encoder_options
from pcm_policy.adopt.lerobot_features import features
from pcm_policy.adopt.lerobot_files import ACTION, ENV, STATE
from pcm_policy.adopt.lerobot_normalizers import (
    from_buffers,
    from_processors,
    observed,
    range_notes,
    seen,
)
from pcm_policy.adopt.scheduler import LEROBOT, scheduling
from pcm_policy.adopt.sizes import unet_options
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.tensors import load_tensors
from pcm_policy.policy.vision import VisionConfig


def read(folder: Path, where: str, config: Mapping[str, Any]) -> Imported:
    """Translate a LeRobot ``diffusion`` policy.

    Args:
        folder: it.
        where: its config's file.
        config: what that holds.

    Raises:
        PcmError: a file or entry that is missing, damaged or of a kind that this package does not
            have.
    """
    found = features(where, config, (STATE, ENV, ACTION), "diffusion")
    cameras, widths = found.cameras, found.widths
    names = [STATE, *([ENV] if ENV in widths else [])]
    tensors, weights = _weights(file := folder / "model.safetensors")
    renamed: dict[str, str] = {}
    if (folder / "policy_preprocessor.json").is_file():
        affine, renamed = from_processors(folder, widths, found.modes)
    else:
        affine = from_buffers(str(file), tensors, widths, found.modes)
    vision, encoders = _vision(str(file), config, tensors, cameras, widths)
    try:
        sampling = scheduling(
            where,
            config["noise_scheduler_type"],
            {k: config[k] for k in LEROBOT if k in config},
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
            schedule=sampling.schedule,
            prediction=sampling.prediction,
            clip=sampling.clip,
            sampler=sampling.sampler,
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
        observed(affine, names, vision),
        affine[ACTION],
        {"folder": str(folder.resolve()), "widths": {n: widths[n] for n in names}},
        (*range_notes(affine, names), *found.notes),
        vision=seen(affine, vision, encoders),
    )


def _weights(file: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return all tensors of a policy, and the U-Net's by this package's names."""
    tensors = {k.replace("_orig_mod.", ""): v for k, v in load_tensors(file).items()}
    unet = "diffusion.unet."
    weights = {_ours(k.removeprefix(unet)): v for k, v in tensors.items() if k.startswith(unet)}
    if not weights:
        raise PcmError(f"{file} holds no {unet}*: it is no LeRobot diffusion policy")
    return tensors, weights


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


def _ours(name: str) -> str:
    """Give a weight of LeRobot's U-Net the name that ours has for it."""
    for theirs, ours in (
        (r"\.conv1\.block\.", ".blocks.0.block."),
        (r"\.conv2\.block\.", ".blocks.1.block."),
        (r"^(down|up)_modules\.(\d+)\.2\.(weight|bias)$", r"\1_modules.\2.2.conv.\3"),
    ):
        name = re.sub(theirs, ours, name)
    return name
