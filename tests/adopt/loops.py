"""Policies with the calls of LeRobot's, small enough to run anywhere; nothing of LeRobot is needed.

Their loops are written down here a second time, step by step, so that a chunk solved from outside
has something of its own to be compared with.
"""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tests.problems import randomize

T, D, S, L, H, N = 6, 5, 3, 4, 2, 10


class Layer:
    """Keys and values ``(B, H, L, D)`` of one layer."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class Cache:
    """Layers, as transformers keeps them."""

    def __init__(self, layers: list[Layer]) -> None:
        self.layers = layers


class Model(nn.Module):
    """A velocity of chunk, time, state and what is in keys and values; they grow and are cropped.

    Rows differ in how strongly the velocity depends on the chunk, by their first token.
    """

    def __init__(self, *, state: bool, seed: int = 0) -> None:
        super().__init__()
        self.rtc, self.reads_state, self.rows = False, state, 0
        self.net = nn.Sequential(nn.Linear(2 * D + S + 1, 32), nn.Tanh(), nn.Linear(32, D))
        randomize(self, 0.8, seed)

    def _rtc_enabled(self) -> bool:
        return self.rtc

    def prefill(self, seen: Tensor, long: Tensor) -> tuple[Tensor, Cache]:
        """Return masks ``(B, L)`` and a cache of tokens ``(B, L, D)``."""
        masks = torch.arange(L) < long[:, None]
        keys = seen[:, None].repeat(1, H, 1, 1)
        return masks, Cache([Layer(keys, keys.sin()), Layer(keys.cos(), keys.tanh())])

    def denoise_step(
        self,
        prefix_pad_masks: Tensor,
        past_key_values: Cache,
        x_t: Tensor,
        timestep: Tensor,
        state: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity ``(B, T, D)``."""
        self.rows += len(x_t)
        assert len(x_t) == len(timestep) == len(prefix_pad_masks)
        assert self.reads_state == (state is not None)
        seen = torch.zeros_like(x_t[:, 0])
        for layer in past_key_values.layers:  # the chunk is appended in place, as SmolVLA does
            assert layer.keys.shape[2] == L
            layer.keys = torch.cat([layer.keys, x_t[:, None].expand(-1, H, -1, -1)], dim=2)
            tokens = (layer.keys[:, 0, :L] * layer.values[:, 1]) * prefix_pad_masks[..., None]
            seen = seen + tokens.sum(1) / prefix_pad_masks.sum(1, keepdim=True)
            layer.keys = layer.keys[:, :, :L]
        state = torch.zeros(len(x_t), S) if state is None else state
        wide = torch.cat([seen, state, timestep[:, None]], dim=1)[:, None].expand(-1, T, -1)
        pushed = 1 + 3 * seen[:, :1, None].abs()
        mixed = x_t + x_t.mean(dim=1, keepdim=True)  # an action depends on the others
        return x_t - pushed * self.net(torch.cat([mixed, wide], dim=2))

    def sample_actions(self, seen: Tensor, long: Tensor, state: Tensor, noise: Tensor, steps: int):
        """Integrate by Euler steps from noise at time 1."""
        masks, cache = self.prefill(seen, long)
        more = {"state": state} if self.reads_state else {}
        x = noise
        for i in range(steps):
            t = torch.tensor(1.0 - i / steps).expand(len(x))
            given = {"prefix_pad_masks": masks, "past_key_values": cache} | more
            x = x + (-1.0 / steps) * self.denoise_step(x_t=x, timestep=t, **given)
        return x


class Policy:
    """What LeRobot's SmolVLA (``num_steps``) or pi0 (``num_inference_steps``) shows of itself."""

    def __init__(self, name: str = "num_steps", *, state: bool = False, **config: Any) -> None:
        self.model = Model(state=state)
        self.config = SimpleNamespace(**{name: N, "compile_model": False} | config)

    @torch.no_grad()
    def predict_action_chunk(self, batch: int = 3, seed: int = 0, num_steps: int = N) -> Tensor:
        """Return a chunk for observations and noise that a seed names."""
        g = torch.Generator().manual_seed(seed)
        seen, state = torch.randn(batch, L, D, generator=g), torch.randn(batch, S, generator=g)
        noise, long = torch.randn(batch, T, D, generator=g), 1 + torch.arange(batch) % L
        return self.model.sample_actions(seen, long, state, noise, num_steps)[..., :4]


class Transformer(nn.Module):
    """What ``multi_task_dit`` calls ``noise_predictor``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(D + S + 2, 32), nn.Tanh(), nn.Linear(32, D))
        randomize(self, 0.8, 0)

    def forward(self, x: Tensor, timestep: Tensor, conditioning_vec: Tensor) -> Tensor:
        t = timestep[:, None].to(x.dtype)
        wide = torch.cat([conditioning_vec, (t / 7).sin(), (3 * t).cos()], dim=1)
        mixed = x + x.mean(dim=1, keepdim=True)
        return self.net(torch.cat([mixed, wide[:, None].expand(-1, T, -1)], dim=2))


class Objective(nn.Module):
    """A loop that draws its noise from torch's own generator, with diffusers' schedulers."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.horizon, self.action_dim = config, T, D

    def conditional_sample(self, model: nn.Module, batch_size: int, conditioning_vec: Tensor):
        """Return chunks ``(B, T, D)``."""
        c, dtype = self.config, conditioning_vec.dtype
        x = torch.randn(batch_size, T, D, dtype=dtype)
        if c.objective == "flow_matching":
            grid = torch.linspace(0, 1, c.num_integration_steps + 1)
            for now, then in pairwise(grid):
                t = torch.full((batch_size,), now.item(), dtype=dtype)
                x = x + (then - now).item() * model(x, t, conditioning_vec=conditioning_vec)
            return x
        import diffusers

        keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        keys += ("clip_sample", "clip_sample_range", "prediction_type")
        kind = getattr(diffusers, f"{c.noise_scheduler_type}Scheduler")
        scheduler = kind(**{key: getattr(c, key) for key in keys})
        scheduler.set_timesteps(c.num_inference_steps or c.num_train_timesteps)
        for t in scheduler.timesteps:
            output = model(x, torch.full((batch_size,), t), conditioning_vec=conditioning_vec)
            x = scheduler.step(output, t, x).prev_sample
        return x


class DiT:
    """What LeRobot's ``multi_task_dit`` shows of itself."""

    def __init__(self, **config: Any) -> None:
        usual = {"objective": "diffusion", "noise_scheduler_type": "DDPM", "n_obs_steps": 2}
        usual |= {"num_train_timesteps": 12, "beta_schedule": "squaredcos_cap_v2"}
        usual |= {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": True}
        usual |= {"clip_sample_range": 1.0, "prediction_type": "sample"}
        usual |= {"num_inference_steps": None, "num_integration_steps": 12}
        usual |= {"integration_method": "euler"}
        self.config = SimpleNamespace(**usual | config)
        self.noise_predictor, self.objective = Transformer(), Objective(self.config)

    @torch.no_grad()
    def predict_action_chunk(self, batch: int = 3, seed: int = 0) -> Tensor:
        """Return a chunk; the seed is torch's own generator's."""
        dtype = self.noise_predictor.net[0].weight.dtype
        cond = torch.randn(batch, S, generator=torch.Generator().manual_seed(seed + 1)).to(dtype)
        torch.manual_seed(seed)
        return self.objective.conditional_sample(self.noise_predictor, batch, cond)
