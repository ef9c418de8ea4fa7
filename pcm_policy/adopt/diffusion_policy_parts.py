"""What all checkpoints of diffusion_policy share: weights, normaliser, scheduler, horizons."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pcm_policy.adopt.build import Affine
from pcm_policy.adopt.scheduler import scheduling
from pcm_policy.adopt.settings import Settings
from pcm_policy.adopt.torchzip import Archive
from pcm_policy.errors import PcmError

NORMALIZER = "normalizer.params_dict."
_STEP = {"eta", "use_clipped_model_output"}


def common(config: Settings, arguments: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read scheduler, horizons and names.

    Args:
        config: the whole config.
        arguments: what else the policy may be given.

    Returns:
        Settings of :class:`~pcm_policy.policy.config.PolicyConfig`, and what the original is built
        from.

    Raises:
        PcmError: an argument of the policy, or a setting of its scheduler, that is not here.
    """
    config.refuse("n_latency_steps", 0, "train without: the controller here knows of latency", 0)
    policy = config.get("policy", dict)
    step = {k: v for k, v in policy.items() if k in _STEP}
    unknown = set(policy) - set(arguments) - _STEP - {"_target_", "model", "noise_scheduler"}
    if unknown:
        raise PcmError(
            f"{config.file}: config has policy.{sorted(unknown)[0]}, which is unknown here"
        )
    name = str(config.get("policy.noise_scheduler._target_", str)).rpartition(".")[2]
    given = config.get("policy.noise_scheduler", dict)
    found = scheduling(
        config.file,
        name.removesuffix("Scheduler"),
        given,
        config.get("policy.num_inference_steps", int, None),
        **step,
    )
    ours = {
        "horizon": config.count("policy.horizon"),
        "obs_steps": config.count("policy.n_obs_steps"),
        "action_steps": config.count("policy.n_action_steps"),
        "schedule": found.schedule,
        "prediction": found.prediction,
        "clip": found.clip,
        "sampler": found.sampler,
        "task": str(config.get("task.name", str, "")),
        "control_hz": float(config.get("task.env_runner.fps", int | float, 10.0)),
    }
    original = {
        "class": str(config.get("policy._target_", str)).rpartition(".")[2],
        "policy": {k: policy[k] for k in arguments if k in policy} | step,
        "scheduler": name,
        "arguments": {k: v for k, v in given.items() if k != "_target_"},
    }
    return ours, original


def rotation_notes(config: Settings) -> list[str]:
    """Return a line where actions are not what a robot takes."""
    if config.get("task.dataset.rotation_rep", str, None) and config.get(
        "task.abs_action", bool, 0
    ):
        return ["actions hold 6-D rotations, as in training: convert them before executing"]
    return []


def state_of(archive: Archive, config: Settings) -> Mapping[str, Any]:
    """Return the weights that evaluation would use: the averaged ones if there are any."""
    name = "ema_model" if config.get("training.use_ema", bool, False) else "model"
    states = archive.content["state_dicts"]
    if not isinstance(states, dict) or not isinstance(states.get(name), dict):
        raise PcmError(f"{archive.path} holds no state_dicts.{name}: it is cut short")
    found: Mapping[str, Any] = states[name]
    return found


def affine(file: str, tensors: Mapping[str, Tensor], key: str) -> Affine:
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
