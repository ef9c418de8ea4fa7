"""From a demonstration set to what training takes: raw rows, windows, a fitted policy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.datasets.open import open_demonstrations
from pcm_policy.datasets.windows import field_keys, gather_fields, split_episodes, window_indices
from pcm_policy.errors import PcmError
from pcm_policy.normalize import Normalizer, NormalizerMode
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.policy_config import PolicyConfig
from pcm_policy.samplers import SamplerConfig
from pcm_policy.schedules import NoiseSchedule
from pcm_policy.training.cloning import Windows


@dataclass(frozen=True)
class DatasetConfig:
    """Which demonstrations, and how they are split.

    Attributes:
        path: replay buffer, a zarr folder or zip; or a robomimic HDF5 file.
        val_fraction: share of the episodes that nothing is trained on.
        val_seed: seed of the split.
        filter_key: of a robomimic file: train on the demonstrations that ``mask/<filter_key>``
            names; None for all.
        val_filter_key: of a robomimic file: hold out those that this one names, in place of
            ``val_fraction``.
        more: further replay buffers; all their episodes are trained on.
        symmetry: ``module:function`` that maps all rows ``(obs, action)`` to an equally valid
            copy of them; the training episodes are seen both ways. None for no copy.
    """

    path: str
    val_fraction: float = 0.1
    val_seed: int = 42
    filter_key: str | None = None
    val_filter_key: str | None = None
    more: list[str] = field(default_factory=list)
    symmetry: str | None = None


@dataclass(frozen=True)
class Demonstrations:
    """Raw rows and the window rows of both splits.

    Attributes:
        obs: ``(steps, Do)`` float32.
        action: ``(steps, Da)`` float32.
        train: ``(n, T)`` rows of the training windows.
        held_out: ``(m, T)`` rows of the other episodes' windows.
        train_steps: ``(k,)`` rows of the training episodes.
    """

    obs: Tensor
    action: Tensor
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]
    train_steps: NDArray[np.int64]

    def windows(self, policy: DiffusionPolicy) -> tuple[Windows, Windows]:
        """Return normalised training and held-out windows."""
        train, held_out = (
            Windows.gather(policy, self.obs, self.action, rows)
            for rows in (self.train, self.held_out)
        )
        return train, held_out

    def describe(self, dataset: DatasetConfig) -> str:
        """Return a line for the policy's card."""
        names = ", ".join(f"`{Path(path).name}`" for path in [dataset.path, *dataset.more])
        return (
            f"{names}: {len(self.train)} training and {len(self.held_out)} "
            f"held-out windows (episodes split with val_fraction={dataset.val_fraction}, "
            f"val_seed={dataset.val_seed})"
        )

    def observations(self, policy: DiffusionPolicy, count: int = 256) -> Tensor:
        """Return up to ``count`` raw held-out observations ``(n, To, Do)``, evenly spread.

        Where no episode was held out they come from the training windows.
        """
        rows = self.held_out if len(self.held_out) else self.train
        picked = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)]
        return self.obs[torch.from_numpy(picked[:, : policy.config.obs_steps])]


def load_demonstrations(dataset: DatasetConfig, config: PolicyConfig) -> Demonstrations:
    """Read the fields that a policy needs and cut the usual padded windows.

    Raises:
        PcmError: the file is damaged, lacks a field, or its widths are not the policy's.
    """
    if dataset.val_filter_key is None:
        data = _read(
            dataset.path, config, dataset.val_fraction, dataset.val_seed, dataset.filter_key
        )
    else:
        data = _read(dataset.path, config, 0.0, 0, dataset.filter_key)
        held_out = _read(dataset.path, config, 0.0, 0, dataset.val_filter_key)
        data = replace(_joined(data, held_out), train=data.train, train_steps=data.train_steps)
        data = replace(data, held_out=held_out.train + len(data.obs) - len(held_out.obs))
    for path in dataset.more:
        data = _joined(data, _read(path, config, 0.0, 0))
    obs, action, train, steps = data.obs, data.action, data.train, data.train_steps
    if dataset.symmetry is not None:
        copied = _function(dataset.symmetry)(obs.numpy(), action.numpy())
        count = len(obs)
        obs, action = (
            torch.cat([rows, torch.from_numpy(copy)])
            for rows, copy in zip((obs, action), copied, strict=True)
        )
        train, steps = (np.concatenate([rows, rows + count]) for rows in (train, steps))
    return Demonstrations(obs, action, train, data.held_out, steps)


def _read(
    path: str,
    config: PolicyConfig,
    val_fraction: float,
    val_seed: int,
    filter_key: str | None = None,
) -> Demonstrations:
    if config.vision is not None:
        raise PcmError(f"{path}: images of demonstrations are not read yet: the policy has cameras")
    fields = [*config.obs_fields, config.action_field]
    buffer = open_demonstrations(path, field_keys(fields), filter_key)
    obs = torch.from_numpy(gather_fields(buffer, config.obs_fields))
    action = torch.from_numpy(gather_fields(buffer, [config.action_field]))
    for name, rows, want in (
        ("observation " + "+".join(config.obs_fields), obs, config.obs_dim),
        ("action " + config.action_field, action, config.action_dim),
    ):
        if rows.shape[1] != want:
            raise PcmError(
                f"{path}: {name} is {rows.shape[1]} wide, the policy takes {want}: "
                "check task.obs_fields and task.action_field, or choose another task"
            )
    kept, held = split_episodes(buffer.n_episodes, val_fraction, val_seed)
    train, held_out = (
        window_indices(
            buffer.episode_ends,
            config.horizon,
            config.obs_steps - 1,
            config.action_steps - 1,
            episodes,
        )
        for episodes in (kept, held)
    )
    if len(train) == 0:
        raise PcmError(f"{path}: no episode is long enough for horizon {config.horizon}")
    starts, ends = buffer.starts, buffer.episode_ends
    steps = np.concatenate([np.arange(starts[e], ends[e]) for e in kept])
    return Demonstrations(obs, action, train, held_out, steps)


def _joined(first: Demonstrations, more: Demonstrations) -> Demonstrations:
    """Train on both; what is held out stays the first one's."""
    count = len(first.obs)
    return Demonstrations(
        torch.cat([first.obs, more.obs]),
        torch.cat([first.action, more.action]),
        np.concatenate([first.train, more.train + count]),
        first.held_out,
        np.concatenate([first.train_steps, more.train_steps + count]),
    )


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise PcmError(f"symmetry {name!r}: give module:function ({error})") from error
    return found


def policy_config(
    task: Mapping[str, Any], network: Mapping[str, Any], settings: Mapping[str, Any]
) -> PolicyConfig:
    """Join the task, network and policy sections of the command line's config.

    Raises:
        PcmError: a value out of range or an unknown key.
    """
    try:
        return PolicyConfig(
            obs_dim=task["obs_dim"],
            action_dim=task["action_dim"],
            horizon=task["horizon"],
            obs_steps=task["obs_steps"],
            action_steps=task["action_steps"],
            network=network["name"],
            network_options=dict(network["options"]),
            schedule=NoiseSchedule(**settings["schedule"]),
            prediction=settings["prediction"],
            clip=settings["clip"],
            max_excess=settings["max_excess"],
            sampler=SamplerConfig(**settings["sampler"]),
            task=task["name"],
            control_hz=task["control_hz"],
            prefix_steps=task["prefix_steps"],
            obs_fields=tuple(task["obs_fields"]),
            action_field=task["action_field"],
        )
    except (TypeError, KeyError) as error:
        raise PcmError(f"task, network or policy config: {error}") from error


def new_policy(
    config: PolicyConfig, data: Demonstrations, seed: int, mode: NormalizerMode = "minmax"
) -> DiffusionPolicy:
    """Build a policy with weights drawn from ``seed`` and normalisers fitted to training rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DiffusionPolicy(config)
    rows = torch.from_numpy(data.train_steps)
    policy.obs_normalizer = Normalizer.fit(data.obs[rows], mode)
    policy.action_normalizer = Normalizer.fit(data.action[rows], mode)
    return policy


FIXED_BY_WEIGHTS = (
    *("obs_dim", "action_dim", "horizon", "obs_steps", "obs_fields", "action_field"),
    *("network", "network_options", "schedule", "prediction", "clip"),
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
    policy.obs_normalizer, policy.action_normalizer = start.obs_normalizer, start.action_normalizer
    return policy


def _widened(weight: Tensor, shape: torch.Size) -> Tensor:
    """Append zeros for the inputs that ``shape`` has more: what the condition holds beyond."""
    if weight.shape == shape:
        return weight
    return torch.nn.functional.pad(weight, (0, shape[-1] - weight.shape[-1]))
