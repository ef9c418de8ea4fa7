"""Checkpoints of real-stanford/diffusion_policy: low-dimensional, 1-D U-Net or transformer.

``BaseWorkspace.save_checkpoint`` writes ``cfg`` (OmegaConf), ``state_dicts`` with ``model`` and
``ema_model``, and ``pickles``, which are not looked into. Evaluation uses ``ema_model`` where
``training.use_ema`` is set. With the transformer, and with ``oa_step_convention`` of the U-Net, the
first executed action belongs to the newest observation, as here. Without ``obs_as_global_cond`` or
``obs_as_cond`` observations are inpainted: they are entries of the trajectory.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.imports.build import Affine, Imported
from pcm_policy.imports.scheduler import scheduling
from pcm_policy.imports.settings import Settings
from pcm_policy.imports.sizes import transformer_options, unet_options
from pcm_policy.imports.torchzip import Archive, plain
from pcm_policy.policy import PolicyConfig

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
_STEP = {"eta", "use_clipped_model_output"}


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
    if target not in _ARGUMENTS:
        raise PcmError(f"{file}: policy {target}: {', '.join(_ARGUMENTS)} can be imported")
    config.refuse(
        "policy.pred_action_steps_only", False, "chunks here start at the oldest frame", False
    )
    config.refuse("n_latency_steps", 0, "train without: the controller here knows of latency", 0)
    state = _state(archive, config)
    weights = archive.tensors(state, "model.")
    normalizer = archive.tensors(state, "normalizer.params_dict.")
    policy, arguments = config.get("policy", dict), _ARGUMENTS[target]
    step = {k: v for k, v in policy.items() if k in _STEP}
    unknown = set(policy) - set(arguments) - _STEP - {"_target_", "model", "noise_scheduler"}
    if unknown:
        raise PcmError(f"{file}: config has policy.{sorted(unknown)[0]}, which is unknown here")
    name = str(config.get("policy.noise_scheduler._target_", str)).rpartition(".")[2]
    given = config.get("policy.noise_scheduler", dict)
    found = scheduling(
        file,
        name.removesuffix("Scheduler"),
        given,
        config.get("policy.num_inference_steps", int, None),
        **step,
    )
    dataset = str(config.get("task.dataset._target_", str, "")).rpartition(".")[2]
    fields, action_field = _FIELDS.get(dataset, ((), "action"))
    network, options, weights = _network(config, target, weights)
    key = "obs_as_global_cond" if target == _UNET else "obs_as_cond"
    inpainting = not config.get(f"policy.{key}", bool, False)
    ours = PolicyConfig(
        obs_dim=config.count("policy.obs_dim"),
        action_dim=config.count("policy.action_dim"),
        horizon=config.count("policy.horizon"),
        obs_steps=config.count("policy.n_obs_steps"),
        action_steps=config.count("policy.n_action_steps"),
        network=network,
        network_options=options,
        schedule=found.schedule,
        prediction=found.prediction,
        clip=found.clip,
        sampler=found.sampler,
        task=str(config.get("task.name", str, "")),
        control_hz=float(config.get("task.env_runner.fps", int | float, 10.0)),
        obs_fields=fields,
        action_field=action_field,
        inpainting=inpainting,
    )
    notes = [] if fields else [f"dataset {dataset}: give obs_fields=[...] to train on its data"]
    if inpainting:
        notes.append("observations are entries of the trajectory (inpainting), not a condition")
    if config.get("task.dataset.rotation_rep", str, None) and config.get(
        "task.abs_action", bool, 0
    ):
        notes.append("actions hold 6-D rotations, as in training: convert them before executing")
    original = {
        "policy": {k: policy[k] for k in arguments if k in policy} | step,
        "scheduler": name,
        "arguments": {k: v for k, v in given.items() if k != "_target_"},
    }
    return Imported(
        "diffusion_policy",
        file,
        ours,
        weights,
        _affine(file, normalizer, "obs"),
        _affine(file, normalizer, "action"),
        original,
        tuple(notes),
        {f"normalizer.params_dict.{k}": v for k, v in normalizer.items()},
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


def _state(archive: Archive, config: Settings) -> Mapping[str, Any]:
    """Return the weights that evaluation would use: the averaged ones if there are any."""
    name = "ema_model" if config.get("training.use_ema", bool, False) else "model"
    states = archive.content["state_dicts"]
    if not isinstance(states, dict) or not isinstance(states.get(name), dict):
        raise PcmError(f"{archive.path} holds no state_dicts.{name}: it is cut short")
    found: Mapping[str, Any] = states[name]
    return found


def _affine(file: str, tensors: Mapping[str, Tensor], key: str) -> Affine:
    """Read ``normalised = raw * scale + offset`` and the range of the data."""
    found = {}
    for ours, theirs in (
        ("scale", "scale"),
        ("shift", "offset"),
        ("low", "input_stats.min"),
        ("high", "input_stats.max"),
    ):
        name = f"{key}.{theirs}"
        if name not in tensors or tensors[name].ndim != 1:
            raise PcmError(
                f"{file} lacks its normaliser (normalizer.params_dict.{name}): a policy never runs "
                "without it"
            )
        found[ours] = tensors[name].double()
    return Affine(**found)
