"""What the originals compute, written with diffusers' schedulers and nothing of ours but weights.

Their loops are a few lines: draw noise, step the scheduler, cut out what is executed, un-normalise.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.adopt import Imported
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver


@torch.inference_mode()
def loop(
    network: nn.Module,
    scheduler: Any,
    steps: int,
    cond: Tensor,
    noise: Noise,
    written: tuple[slice, slice] | None = None,
) -> Tensor:
    """``conditional_sample`` of all three originals.

    ``written``: steps and dimensions of the trajectory into which ``cond`` is written.
    """
    rows: Iterator[Tensor] = iter(()) if noise.steps is None else iter(noise.steps)
    with pytest.MonkeyPatch.context() as patch:
        for module in ("scheduling_ddpm", "scheduling_ddim"):
            patch.setattr(f"diffusers.schedulers.{module}.randn_tensor", lambda *a, **k: next(rows))
        scheduler.set_timesteps(steps)
        x = noise.initial
        for t in scheduler.timesteps:
            if written is not None:
                x = x.clone()
                x[:, written[0], written[1]] = cond
            shown = cond if written is None else cond[:, :0].flatten(1)
            output = network(x, t.expand(len(x)), shown)
            x = scheduler.step(output, t, x).prev_sample
    return x


def scheduler(name: str, **arguments: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    return getattr(diffusers, f"{name}Scheduler")(**arguments)


def ours(imported: Imported, raw: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """The normalised chunk and the raw actions to execute, from an import's own defaults."""
    policy = imported.policy()
    found = policy.predict(raw.numpy(), solver=policy.default_solver(), noise=noise)
    assert policy.default_solver() == Solver.of("sequential", imported.config.sampler)
    return found.solve.sample, torch.from_numpy(found.action)


def draw(batch: int, horizon: int, dim: int, steps: int, seed: int = 0) -> Noise:
    g = torch.Generator().manual_seed(seed)
    shape = (batch, horizon, dim)
    return Noise(torch.randn(shape, generator=g), torch.randn(steps, *shape, generator=g))
