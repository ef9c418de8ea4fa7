"""What LeRobot's sampling is in our terms: its sampler, its noise, its names of the weights."""

import re

import torch
from torch import Tensor

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig


def common_sampler(name: str, steps: int) -> SamplerConfig:
    """Return the sampler that diffusers' defaults describe and LeRobot runs."""
    return SamplerConfig(
        name,
        steps,
        spacing="leading",
        previous="ratio",
        rederive_epsilon=name == "ddpm",
    )


def draw_noise(policy: DiffusionPolicy, sampler: SamplerConfig, batch: int, seed: int) -> Noise:
    """Draw one call's noise, step by step, as diffusers' loop draws it."""
    generator = torch.Generator(policy.device).manual_seed(seed)
    size = (batch, policy.config.horizon, policy.config.action_dim)

    def draw() -> Tensor:
        return torch.randn(size, generator=generator, device=policy.device, dtype=policy.dtype)

    initial = draw()
    if not policy.sampler(sampler).stochastic:
        return Noise(initial)
    return Noise(initial, torch.stack([draw() for _ in range(sampler.steps)]))


def renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of our U-Net the names that LeRobot's has for them."""
    pairs = (
        (r"\.blocks\.0\.block\.", ".conv1.block."),
        (r"\.blocks\.1\.block\.", ".conv2.block."),
        (r"^(down|up)_modules\.(\d+)\.2\.conv\.", r"\1_modules.\2.2."),
    )
    result = {}
    for name, value in weights.items():
        for ours, theirs in pairs:
            name = re.sub(ours, theirs, name)
        result[name] = value.detach().cpu().contiguous()
    return result


def unsupported(policy: DiffusionPolicy, sampler: SamplerConfig) -> str | None:
    """Return why LeRobot cannot run this policy and sampler, or None if it can."""
    config = policy.config
    if config.network != "unet1d":
        return f"LeRobot's diffusion policy is a U-Net, not {config.network}"
    if config.obs_dim < 2:
        return "LeRobot wants a state and an environment state"
    if config.clip is None or policy.dtype != torch.float32:
        return "LeRobot's side is float32 with clipping"
    if sampler.name not in ("ddpm", "ddim"):
        return f"LeRobot has no sampler {sampler.name}"
    every = sampler.steps == config.schedule.train_steps  # every spacing visits all timesteps
    leading = sampler.spacing == "leading" or every
    if not leading or sampler.offset or not sampler.final_alpha_one or sampler.timesteps:
        return f"LeRobot leaves diffusers' spacing at leading, not {sampler.spacing}"
    if sampler.temperature != 1:
        return f"LeRobot draws noise at temperature 1, not {sampler.temperature:g}"
    if sampler.name == "ddim" and (sampler.rederive_epsilon or sampler.eta):
        return "LeRobot's DDIM keeps the network's noise after clipping, and eta is 0"
    return None
