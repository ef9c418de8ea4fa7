"""Training by ``lerobot-train --policy.type=pcm``: a new policy, its objective, averaged weights.

The policy normalises by itself: its normalisers take the smallest and largest values from the
dataset's statistics, as ``pcm-train`` takes them from the data. LeRobot's processors change
nothing.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from lerobot.configs.types import FeatureType
from lerobot.utils.constants import ACTION
from torch import Tensor, distributed, nn

from lerobot_policy_pcm.configuration_pcm import PCMConfig
from pcm_policy import DiffusionPolicy, PcmError, PolicyConfig
from pcm_policy.policy.normalize import Normalizer
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.samplers import SamplerConfig, chosen_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.training.batches import step_generator
from pcm_policy.training.cameras import seeded
from pcm_policy.training.config import average_weight
from pcm_policy.training.denoising import Denoising

Stats = Mapping[str, Mapping[str, Any]]


def new_policy(config: PCMConfig, stats: Stats, fps: float | None) -> DiffusionPolicy:
    """Make the policy that a config describes, with the dataset's features and statistics.

    Args:
        config: its features are the dataset's; entries, network and ``learning`` are filled in.
        stats: smallest and largest values of every feature.
        fps: of the dataset.

    Raises:
        PcmError: a feature that the policy cannot have, or statistics that are missing.
    """
    config.obs_entries = config.obs_entries or _entries(config)
    if list(config.output_features or ()) != [ACTION]:
        raise PcmError(f"the dataset has the actions {list(config.output_features or ())}: use one")
    obs, action = _range(stats, config.obs_entries), _range(stats, [ACTION])
    flow = config.schedule == "flow"
    own = SamplerConfig("flow_euler", 10) if flow else SamplerConfig()
    said = {"name": config.sampler, "steps": config.steps}
    sampler = chosen_sampler(
        own, {k: v for k, v in said.items() if v is not None}, config.train_steps
    )
    ours = PolicyConfig(
        obs.shape[1],
        action.shape[1],
        horizon=config.horizon,
        obs_steps=config.n_obs_steps,
        action_steps=config.n_action_steps,
        network=config.denoiser,
        network_options=dict(config.denoiser_options),
        schedule=NoiseSchedule(config.schedule, config.train_steps),
        prediction=config.prediction or ("flow_velocity" if flow else "epsilon"),
        sampler=sampler,
        control_hz=fps or PolicyConfig.control_hz,
        obs_fields=tuple(config.obs_entries),
        prefix_steps=config.prefix_steps,
    )
    policy = DiffusionPolicy(ours)
    policy.obs_normalizer, policy.action_normalizer = Normalizer.fit(obs), Normalizer.fit(action)
    config.network, config.learning = ours.to_dict(), True
    return policy


def _entries(config: PCMConfig) -> list[str]:
    """Return the dataset's observations, all of which must be numbers."""
    features = config.input_features or {}
    cameras = [name for name, kind in features.items() if kind.type is FeatureType.VISUAL]
    numbers = [name for name in features if name not in cameras]
    if not numbers and not cameras:
        raise PcmError("the dataset has no observation.state and no other observation")
    if cameras:
        names, seen = ", ".join(numbers), ", ".join(cameras)
        without = f"--policy.obs_entries='[{names}]' trains without them; " if names else ""
        raise PcmError(
            f"the dataset has cameras ({seen}), which lerobot-train --policy.type=pcm does not "
            f"take: {without}with them use --policy.type=diffusion and pcm-import, or pcm-train"
        )
    return numbers


def _range(stats: Stats, names: Sequence[str]) -> Tensor:
    """Return ``(2, D)``, the smallest and largest values of entries side by side, float64."""
    for name in names:
        if not {"min", "max"} <= set(stats.get(name, {})):
            raise PcmError(f"the dataset has no min and max of {name} in its statistics")
    ends = (torch.cat([_flat(stats[name][end]) for name in names]) for end in ("min", "max"))
    return torch.stack(list(ends))


def _flat(values: Any) -> Tensor:
    return torch.as_tensor(values).double().flatten()


class Learner(nn.Module):
    """The weights that the optimiser moves; a policy's network runs with their average.

    Every random number of a step is a function of ``seed``, the step and the process: a resumed run
    repeats an uninterrupted one, whatever LeRobot draws in between.

    Attributes:
        updates: steps of the optimiser that were made.
        seed: drawn from torch's default generator, which ``lerobot-train --seed`` seeds.

    Args:
        policy: its network's weights are where training starts; they get no gradient.
        ema: decay of the average.

    Raises:
        PcmError: the policy has a head, which would not belong to other weights, or sees cameras or
            its observations by inpainting.
    """

    updates: Tensor
    seed: Tensor

    def __init__(self, policy: DiffusionPolicy, ema: float) -> None:
        super().__init__()
        config = policy.config
        if config.head is not None or config.inpainting or config.vision is not None:
            what = "a PCM head" if config.head else "cameras" if config.vision else "inpainting"
            raise PcmError(f"lerobot-train goes on with no policy that has {what}: use pcm-train")
        self.network = deepcopy(policy.network).train().requires_grad_(True)
        policy.requires_grad_(False)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.randint(2**31, ()))
        self._denoising, self._ema = Denoising(config), ema

    def loss(self, policy: DiffusionPolicy, obs: Tensor, action: Tensor) -> Tensor:
        """Return the mean loss of a batch.

        Args:
            policy: whose network this one is; it normalises.
            obs: ``(B, To, Do)`` raw.
            action: ``(B, T, Da)`` raw.
        """
        self._denoising.to(obs.device)
        clean = policy.action_normalizer.normalize(action)
        seen = policy.obs_normalizer.normalize(obs).flatten(1)
        rank = distributed.get_rank() if distributed.is_initialized() else 0
        seed, step = int(self.seed), int(self.updates)
        generator = step_generator(seed + rank, step)
        drawn = self._denoising.draw(len(obs), generator).each(lambda v: v.to(obs.device))

        def condition(prefix: Prefix) -> Tensor:
            return policy.join(seen, prefix)

        with seeded(seed, step, rank):  # dropout
            return self._denoising.loss(self.network, condition, clean, drawn)

    @torch.no_grad()
    def average(self, policy: DiffusionPolicy) -> None:
        """Move the policy's weights towards these, after a step of the optimiser."""
        weight = average_weight(self._ema, int(self.updates))
        averaged, current = list(policy.network.parameters()), list(self.network.parameters())
        torch._foreach_lerp_(averaged, current, weight)
        self.updates += 1
