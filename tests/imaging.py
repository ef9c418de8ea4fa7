"""Images for tests: a small diffusers network, and diffusers' own sampling loop."""

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from pcm_policy.envs.vision_operators import declare_vision_operators
from pcm_policy.sampling.noise import Noise

declare_vision_operators()  # diffusers' models import torchvision where it is installed
SHAPE = (2, 8, 8)


def unet(**more: Any) -> Any:
    """Return a small untrained ``UNet2DModel`` for images ``(2, 8, 8)``, the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = diffusers.UNet2DModel(
            sample_size=8,
            in_channels=2,
            out_channels=2,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8,
            **more,
        )
    return made.eval().requires_grad_(False)


def wobble(x: Tensor, t: Tensor) -> Tensor:
    """Return a smooth output that depends on the time and leaves [-1, 1]."""
    phase = t.to(x.dtype).view(-1, *(1,) * (x.ndim - 1)) / 300
    return 1.6 * torch.tanh(0.4 * x.roll(1, -1) + 0.3 * x.flip(-1) + phase)


@torch.no_grad()
def loop(
    scheduler: Any,
    steps: int,
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    seed: int = 0,
    **step: Any,
) -> Tensor:
    """Return what diffusers samples from noise ``x``; its own noise is of ``seed``."""
    scheduler.set_timesteps(steps)
    takes_noise = "Flow" not in type(scheduler).__name__
    x = x * float(getattr(scheduler, "init_noise_sigma", 1.0))
    more = {"generator": torch.Generator().manual_seed(seed)} if takes_noise else {}
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if takes_noise else x
        x = scheduler.step(network(seen, t.expand(len(x))), t, x, **more, **step)[0]
    return x


def drawn(batch: int, steps: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Noise:
    """Return the initial noise of a generator, and the steps' as :func:`loop` draws it."""
    initial = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(99))
    own = torch.Generator().manual_seed(seed)
    each = [torch.randn(batch, *shape, generator=own) for _ in range(steps)]
    return Noise(initial, torch.stack(each) if each else None)
