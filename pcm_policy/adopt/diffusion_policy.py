"""Checkpoints of real-stanford/diffusion_policy: low-dimensional, 1-D U-Net or transformer.

``BaseWorkspace.save_checkpoint`` writes ``cfg`` (OmegaConf), ``state_dicts`` with ``model`` and
``ema_model``, and ``pickles``, which are not looked into. Evaluation uses ``ema_model`` where
``training.use_ema`` is set. With the transformer, and with ``oa_step_convention`` of the U-Net, the
first executed action belongs to the newest observation, as here. Without ``obs_as_global_cond`` or
``obs_as_cond`` observations are inpainted: they are entries of the trajectory.
"""

from typing import Any

from torch import Tensor

from pcm_policy.adopt import diffusion_policy_images as images
from pcm_policy.adopt.build import Imported
from pcm_policy.adopt.diffusion_policy_parts import (
    NORMALIZER,
    affine,
    common,
    rotation_notes,
    state_of,
)
from pcm_policy.adopt.settings import Settings
from pcm_policy.adopt.sizes import transformer_options, unet_options
from pcm_policy.adopt.torchzip import Archive, plain
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig

_UNET, _TRANSFORMER = "DiffusionUnetLowdimPolicy", "DiffusionTransformerLowdimPolicy"
_FIELDS = {  # what the datasets of the project put together, by class
    "PushTLowdimDataset": (("keypoint", "state[0:2]"), "action"),
}
_COMMON = (
    "horizon",
    "obs_dim",
    "action_dim",
    "n_action_steps",
    "n_obs_steps",
    "num_inference_steps",
    "pred_action_steps_only",
)
_ARGUMENTS = {
    _UNET: (*_COMMON, "obs_as_local_cond", "obs_as_global_cond", "oa_step_convention"),
    _TRANSFORMER: (*_COMMON, "obs_as_cond"),
}


def is_diffusion_policy(content: Any) -> bool:
    """Whether a checkpoint's content is one of this project."""
    return isinstance(content, dict) and {"cfg", "state_dicts"} <= set(content)


def read(archive: Archive) -> Imported:
    """Translate a checkpoint.

    Raises:
        PcmError: another policy class, a way of conditioning that is not here, or an entry that is
            missing or bad.
    """
    file = str(archive.path)
    config = Settings(file, plain(archive.content["cfg"]))
    target = str(config.get("policy._target_", str)).rpartition(".")[2]
    if target in images.CLASSES:
        return images.read(archive, config)
    if target not in _ARGUMENTS:
        raise PcmError(
            f"{file}: policy {target}: {', '.join((*_ARGUMENTS, *images.CLASSES))} can be imported"
        )
    config.refuse(
        "policy.pred_action_steps_only", False, "chunks here start at the oldest frame", False
    )
    state = state_of(archive, config)
    weights = archive.tensors(state, "model.")
    normalizer = archive.tensors(state, NORMALIZER)
    given, original = common(config, _ARGUMENTS[target])
    dataset = str(config.get("task.dataset._target_", str, "")).rpartition(".")[2]
    fields, action_field = _FIELDS.get(dataset, ((), "action"))
    network, options, weights = _network(config, target, weights)
    key = "obs_as_global_cond" if target == _UNET else "obs_as_cond"
    inpainting = not config.get(f"policy.{key}", bool, False)
    ours = PolicyConfig(
        obs_dim=config.count("policy.obs_dim"),
        action_dim=config.count("policy.action_dim"),
        network=network,
        network_options=options,
        obs_fields=fields,
        action_field=action_field,
        inpainting=inpainting,
        **given,
    )
    notes = [] if fields else [f"dataset {dataset}: give obs_fields=[...] to train on its data"]
    if inpainting:
        notes.append("observations are entries of the trajectory (inpainting), not a condition")
    notes += rotation_notes(config)
    return Imported(
        "diffusion_policy",
        file,
        ours,
        weights,
        affine(file, normalizer, "obs"),
        affine(file, normalizer, "action"),
        original,
        tuple(notes),
        {f"{NORMALIZER}{k}": v for k, v in normalizer.items()},
    )


def _network(
    config: Settings, target: str, weights: dict[str, Tensor]
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Return name, options and weights of the denoising network."""
    if target == _UNET:
        config.refuse("policy.obs_as_local_cond", False, "local conditioning is not here", False)
        config.refuse(
            "policy.oa_step_convention", True, "actions here start at the newest frame", False
        )
        groups = config.get("policy.model.n_groups", int, 8)
        return "unet1d", unet_options(config.file, weights, groups), weights
    heads = config.get("policy.model.n_head", int, 12)
    options, weights = transformer_options(config.file, weights, heads)
    for name in ("p_drop_emb", "p_drop_attn"):
        options[name] = float(config.get(f"policy.model.{name}", int | float, 0.1))
    return "transformer", options, weights
