"""Image checkpoints of real-stanford/diffusion_policy with the 1-D U-Net.

``DiffusionUnetImagePolicy`` encodes observations with the project's ``MultiImageObsEncoder``: a
torchvision ResNet with mean pooling for each camera or for all; cameras in alphabetical order, then
the other keys in alphabetical order. ``DiffusionUnetHybridImagePolicy`` takes robomimic's
``ObservationEncoder``: ResNet, spatial softmax, a linear layer and ReLU for each camera; keys in
the order of ``shape_meta``.

A camera's image is a value in [0, 1], mapped by the normaliser of its key.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pcm_policy.adopt.build import Affine, Imported
from pcm_policy.adopt.cameras import (
    Places,
    encoder,
    encoder_options,
    robomimic_places,
    vision_weights,
)
from pcm_policy.adopt.diffusion_policy_parts import (
    NORMALIZER,
    affine,
    common,
    rotation_notes,
    state_of,
)
from pcm_policy.adopt.settings import Settings
from pcm_policy.adopt.sizes import unet_options
from pcm_policy.adopt.torchzip import Archive
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.vision import VisionConfig

IMAGE, HYBRID = "DiffusionUnetImagePolicy", "DiffusionUnetHybridImagePolicy"
CLASSES = (IMAGE, HYBRID)
_UNET = ("diffusion_step_embed_dim", "down_dims", "kernel_size", "n_groups", "cond_predict_scale")
_ARGUMENTS = (
    "shape_meta",
    "horizon",
    "n_action_steps",
    "n_obs_steps",
    "num_inference_steps",
    "obs_as_global_cond",
    *_UNET,
)
_HYBRID = ("crop_shape", "obs_encoder_group_norm", "eval_fixed_crop")
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_WIDEST = 100_000


def read(archive: Archive, config: Settings) -> Imported:
    """Translate a checkpoint.

    Raises:
        PcmError: an encoder or a way of conditioning that is not here, or an entry that is missing
            or bad.
    """
    file = config.file
    hybrid = str(config.get("policy._target_", str)).endswith(HYBRID)
    config.refuse("policy.obs_as_global_cond", True, "features are not inpainted here", True)
    given, original = common(config, (*_ARGUMENTS, *(_HYBRID if hybrid else ("obs_encoder",))))
    state = state_of(archive, config)
    weights = archive.tensors(state, "model.")
    normalizer = archive.tensors(state, NORMALIZER)
    tensors = archive.tensors(state, "obs_encoder.")
    shapes = _shapes(config, hybrid)
    cameras = {name: (shape[1], shape[2]) for name, shape in shapes.items() if len(shape) == 3}
    options, encoders = (_robomimics if hybrid else _torchvisions)(config, list(cameras), tensors)
    layout = [name if name in cameras else shape[0] for name, shape in shapes.items()]
    vision = VisionConfig.from_dict({"layout": layout, "cameras": cameras} | options)
    parts = [
        Affine.identity(vision.feature_dim) if name in cameras else affine(file, normalizer, name)
        for name in shapes
    ]
    channels = {name: _channels(config, normalizer, name, hybrid) for name in cameras}
    action = affine(file, normalizer, "action")
    fields = {name: shape[0] for name, shape in shapes.items() if name not in cameras}
    ours = PolicyConfig(
        obs_dim=vision.obs_dim,
        action_dim=len(action.scale),
        network="unet1d",
        network_options=unet_options(file, weights, config.get("policy.n_groups", int, 8)),
        obs_fields=tuple(fields),
        vision=vision,
        **given,
    )
    extra = {f"{NORMALIZER}{k}": v for k, v in normalizer.items()}
    extra |= {f"obs_encoder.{k}": v for k, v in tensors.items()}
    encoder = config.get("policy.obs_encoder", dict, {})
    return Imported(
        "diffusion_policy",
        file,
        ours,
        weights,
        Affine.join(parts),
        action,
        original | {"encoder": encoder, "fields": fields},
        tuple(rotation_notes(config)),
        extra,
        vision_weights(vision, encoders, channels),
    )


def _shapes(config: Settings, hybrid: bool) -> dict[str, list[int]]:
    """Return the shape of every key in the order in which the encoder puts them together."""
    found, kinds = {}, {}
    for name, settings in config.get("policy.shape_meta.obs", dict).items():
        shape = settings["shape"]
        kinds[name] = settings.get("type", "low_dim")
        rank = {"low_dim": 1, "rgb": 3}.get(kinds[name])
        whole = all(type(n) is int and 0 < n <= _WIDEST for n in shape)
        if len(shape) != rank or not whole or (rank == 3 and shape[0] != 3):
            raise PcmError(
                f"{config.file}: config has {name} of type {kinds[name]!r} and shape {shape}: "
                "expected low_dim (D) or rgb (3, H, W)"
            )
        found[name] = list(shape)
    if hybrid:
        return found
    return {k: found[k] for k in sorted(found, key=lambda k: (kinds[k] != "rgb", k))}


Encoders = tuple[dict[str, Any], list[dict[str, Tensor]]]


def _torchvisions(config: Settings, cameras: list[str], tensors: Mapping[str, Tensor]) -> Encoders:
    """Return settings and encoders of a ``MultiImageObsEncoder``."""
    kind = str(config.get("policy.obs_encoder._target_", str)).rpartition(".")[2]
    if kind != "MultiImageObsEncoder":
        raise PcmError(f"{config.file}: observation encoder {kind!r}: not importable so far")
    shared = config.get("policy.obs_encoder.share_rgb_model", bool, False)
    crop = config.get("policy.obs_encoder.crop_shape", list, None)
    resize = config.get("policy.obs_encoder.resize_shape", list, None)
    sizes = config.get("policy.shape_meta.obs", dict)
    if resize is not None and any(resize != sizes[name]["shape"][1:] for name in cameras):
        raise PcmError(
            f"{config.file}: images are resized to {resize}, which versions of torchvision do "
            "differently: not importable"
        )
    imagenet = config.get("policy.obs_encoder.imagenet_norm", bool, False)
    if imagenet and not config.get("policy.obs_encoder.random_crop", bool, True):
        crop = None  # there the normalisation takes the fixed crop's place
    names = ["rgb"] if shared else cameras
    encoders = [encoder(tensors, Places(f"key_model_map.{n}.", counted=False)) for n in names]
    options = encoder_options(config.file, encoders[0] if encoders else {})
    return {"shared": shared, "crop": crop} | options, encoders


def _robomimics(config: Settings, cameras: list[str], tensors: Mapping[str, Tensor]) -> Encoders:
    """Return settings and encoders of robomimic's ``ObservationEncoder``."""
    crop = config.get("policy.crop_shape", list | None, [76, 76])
    if crop is not None:
        config.refuse("policy.eval_fixed_crop", True, "crops are at random in evaluation", False)
    encoders = [encoder(tensors, robomimic_places(f"obs_nets.{name}.")) for name in cameras]
    options = encoder_options(config.file, encoders[0] if encoders else {})
    return {"crop": crop} | options, encoders


def _channels(
    config: Settings, normalizer: Mapping[str, Tensor], name: str, hybrid: bool
) -> tuple[Tensor, Tensor]:
    """Return scale and shift of a camera's channels, ImageNet's on top of the normaliser's."""
    found = affine(config.file, normalizer, name)
    if len(found.scale) != 1:
        raise PcmError(f"{config.file}: the normaliser of {name} is not one for images")
    scale, shift = found.scale.expand(3), found.shift.expand(3)
    if not hybrid and config.get("policy.obs_encoder.imagenet_norm", bool, False):
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in _IMAGENET)
        scale, shift = scale / std, (shift - mean) / std
    return scale, shift
