"""A policy from the settings of a command line, or from another policy."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.datasets.usual import usual_fields
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.normalize import Normalizer, NormalizerMode
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.demonstrations import Demonstrations
from pcm_policy.training.reading import field_widths
from pcm_policy.training.saying import say

_ROUNDING = 1e-5
"""Of actions that are normalised in float32."""
RATE = 10.0
"""Hz, of a policy whose task and demonstrations do not say a rate."""


AUTO = "auto"


def completed_task(task: Mapping[str, Any], dataset: DatasetConfig) -> dict[str, Any]:
    """Fill in from the demonstrations what a task leaves open: fields, their widths, and the rate.

    Args:
        task: the task section of the command line's config; what is open is None.
        dataset: the demonstrations.

    Raises:
        PcmError: no fields are named and the demonstrations call nothing an observation or an
            action, or they lack a field.
    """
    completed = dict(task)
    if task.get("obs_fields") is None:
        usual = usual_fields(dataset.path)
        say(f"taken from the demonstrations, as nothing else is said: {usual.said}")
        completed |= {"obs_fields": usual.obs_fields, "action_field": usual.action_field}
        completed["cameras"] = task.get("cameras") or usual.cameras
    if any(completed.get(key) is None for key in ("obs_dim", "action_dim", "control_hz")):
        found = field_widths(dataset, completed["obs_fields"], completed["action_field"])
        completed |= {k: v for k, v in found.items() if completed.get(k) is None}
    if completed["control_hz"] is None:
        say(f"the demonstrations say no rate: task.control_hz={RATE:g} is written into the policy")
        completed["control_hz"] = RATE
    return completed


def policy_config(
    task: Mapping[str, Any],
    network: Mapping[str, Any],
    settings: Mapping[str, Any],
    reading: Mapping[str, Any] | None = None,
) -> PolicyConfig:
    """Join the task, network and policy sections of the command line's config.

    Args:
        task: as :func:`completed_task` returns it.
        network: name and options.
        settings: the policy section.
        reading: how the demonstrations are read, see ``DatasetConfig.reading``.

    Raises:
        PcmError: a value out of range or an unknown key.
    """
    try:
        vision, obs_dim = None, task["obs_dim"]
        if task.get("cameras"):
            layout = [*([obs_dim] if obs_dim else []), *task["cameras"]]
            sizes = {name: tuple(size) for name, size in task["cameras"].items()}
            vision = VisionConfig.from_dict(
                {"layout": layout, "cameras": sizes, **settings["vision"]}
            )
            obs_dim = vision.obs_dim
        return PolicyConfig(
            obs_dim=obs_dim,
            vision=vision,
            action_dim=task["action_dim"],
            horizon=task["horizon"],
            obs_steps=task["obs_steps"],
            action_steps=task["action_steps"],
            network=network["name"],
            network_options=dict(network["options"]),
            schedule=NoiseSchedule(**settings["schedule"]),
            prediction=settings["prediction"],
            clip=1.0 if settings["clip"] == AUTO else settings["clip"],
            max_excess=settings["max_excess"],
            sampler=SamplerConfig(**settings["sampler"]),
            task=task["name"] or "",
            control_hz=task["control_hz"],
            prefix_steps=task["prefix_steps"],
            obs_fields=tuple(task["obs_fields"]),
            action_field=task["action_field"],
            demonstrations=dict(reading or {}),
        )
    except (TypeError, KeyError) as error:
        raise PcmError(f"task, network or policy config: {error}") from error


def new_policy(
    config: PolicyConfig,
    data: Demonstrations,
    seed: int,
    mode: NormalizerMode = "minmax",
    *,
    fit_clip: bool = False,
    still_range: float = 0.0,
) -> DiffusionPolicy:
    """Build a policy with weights drawn from ``seed`` and normalisers fitted to training rows.

    Args:
        config: of the policy.
        data: whose training rows are fitted.
        seed: of the weights.
        mode: of the normalisers.
        fit_clip: take the largest normalised action of the training rows as ``config.clip``.
        still_range: an observation that moves less than this counts as constant, see
            :meth:`.Normalizer.fit`.

    Raises:
        PcmError: ``config.clip`` is below that, so that some actions could not be predicted; or
            images are encoded with batch norm, whose statistics are those of a policy it was
            loaded with.
    """
    if config.vision is not None and config.vision.norm == "batch":
        raise PcmError(
            "policy.vision.norm=batch keeps the statistics it is loaded with, and here are none: "
            "use policy.vision.norm=group, or init=POLICY of an imported one"
        )
    rows = torch.from_numpy(data.train_steps)
    action = Normalizer.fit(data.action[rows], mode)
    reach = max(1.0, float(action.normalize(data.action[rows]).abs().max()))
    reach = math.ceil((reach - _ROUNDING) * 100) / 100
    if fit_clip:
        config = replace(config, clip=reach)
    if config.clip is not None and config.clip < reach - 0.01:
        raise PcmError(
            f"policy.clip={config.clip:g} cuts off actions of the demonstrations, which reach "
            f"{reach:g} with normalizer={mode}: policy.clip=auto is that"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DiffusionPolicy(config)
    obs = Normalizer.fit(data.obs[rows], mode, still_range)
    policy.obs_normalizer = _beside_features(policy, obs)
    policy.action_normalizer = action
    return policy


def _beside_features(policy: DiffusionPolicy, state: Normalizer) -> Normalizer:
    """Leave features of images as they are, and accept all of them."""
    if policy.config.vision is None:
        return state
    found = Normalizer(policy.config.obs_dim)
    found.low.fill_(-torch.inf)
    found.high.fill_(torch.inf)
    columns = policy.config.vision.state_columns
    for name in ("scale", "shift", "low", "high"):
        getattr(found, name)[columns] = getattr(state, name)
    return found


FIXED_BY_WEIGHTS = (
    *("obs_dim", "action_dim", "horizon", "obs_steps", "obs_fields", "action_field"),
    *("network", "network_options", "schedule", "prediction", "clip", "vision"),
)


def continued_policy(config: PolicyConfig, start: DiffusionPolicy) -> DiffusionPolicy:
    """Build a policy of ``config`` with the network weights and the normalisers of another.

    Args:
        config: of the new policy; what it observes, its network and what that was trained to
            predict must be as in ``start``. Only ``prefix_steps`` may go from 0 to some: known
            actions then have weights of zero at first, and change no prediction.
        start: where training starts; its head, if any, is left out.

    Raises:
        PcmError: a setting differs that the weights depend on; the message names it.
    """
    fixed = (*FIXED_BY_WEIGHTS, *(("prefix_steps",) if start.config.prefix_steps else ()))
    differs = [key for key in fixed if getattr(config, key) != getattr(start.config, key)]
    if differs:
        key = differs[0]
        raise PcmError(
            f"init: {key} is {getattr(start.config, key)!r} in that policy and "
            f"{getattr(config, key)!r} here: training can only go on with the same"
        )
    policy = DiffusionPolicy(config)
    shapes = {name: value.shape for name, value in policy.network.state_dict().items()}
    given = start.network.state_dict()
    policy.network.load_state_dict({k: _widened(v, shapes[k]) for k, v in given.items()})
    if policy.vision is not None and start.vision is not None:
        policy.vision.load_state_dict(start.vision.state_dict())
    policy.obs_normalizer, policy.action_normalizer = start.obs_normalizer, start.action_normalizer
    return policy


def _widened(weight: Tensor, shape: torch.Size) -> Tensor:
    """Append zeros for the inputs that ``shape`` has more: what the condition holds beyond."""
    if weight.shape == shape:
        return weight
    return torch.nn.functional.pad(weight, (0, shape[-1] - weight.shape[-1]))
