"""Heads of any network: the trainer of policies, driven by another object."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pcm_policy.errors import PcmError
from pcm_policy.heads import CopyHead, Head, LoraHead
from pcm_policy.heads.convolution import ConvolutionalHead
from pcm_policy.sampling.library import Conditional, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers import PCM, Picard, Rounds, Sequential, Tolerance
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sample import sample
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.library import OURS, PAPER, Model, distil

SHAPE, STEPS = (1, 4, 4), 8
SAMPLING = Sampling.of(NoiseSchedule("linear", 100), SamplerConfig("ddim", STEPS), "sample", 1.0)


class Small(nn.Module):
    """Predict the clean image from a noisy one, its time and label."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = nn.Embedding(3, 16)
        self.inp, self.out = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        level = (t.to(x) / 100).view(-1, 1, 1, 1).expand_as(x)
        shown = self.labels(label).view_as(x)
        h = torch.tanh(2 * self.inp(torch.cat([x, level, shown], dim=1)))
        out: torch.Tensor = 1.5 * torch.tanh(self.out(h) * 3)
        return out


def network() -> Conditional:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Conditional(Small()).requires_grad_(False)


def made(kind: str, base: Conditional) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        if kind == "window":
            return ConvolutionalHead(STEPS, SHAPE, width=16, nodes=5, cond=nn.Embedding(3, 64))
        return LoraHead(base, rank=4) if kind == "lora" else CopyHead(base)


@pytest.mark.parametrize(("kind", "recipe"), [("window", OURS), ("lora", PAPER), ("copy", PAPER)])
def test_a_head_for_images_learns_and_switching_gives_the_base(
    kind: str, recipe: dict[str, object], tmp_path: Path
) -> None:
    base = network()
    model = Model(base, SAMPLING, SHAPE, made(kind, base), 2)
    before = {k: v.clone() for k, v in base.state_dict().items()}
    labels = torch.arange(36) % 3
    config = TrainConfig(steps=40, batch=12, lr=5e-3, warmup=5, ema=0.9, log_every=40)
    head = distil(model, labels, config, tmp_path, pool=36, reuse=30, **recipe)
    assert all(before[k].equal(v) for k, v in base.state_dict().items())

    noise = Noise(torch.randn(12, *SHAPE, generator=torch.Generator().manual_seed(9)))
    label = torch.arange(12) % 3
    exact = sample(base, SAMPLING, noise, Solver(Sequential()), cond=label).sample

    def error(solver: Solver) -> float:
        found = sample(base, SAMPLING, noise, solver, cond=label, head=head)
        return float((found.sample - exact).abs().amax())

    two = error(Solver(PCM((1.0, 1.0)), Rounds(2)))
    assert two < error(Solver(Picard(), Rounds(2)))
    alone = error(Solver(PCM((1.0,) * 30), Rounds(30)))
    assert alone > 1e-3  # it has a fixed point of its own
    assert error(Solver(PCM((1.0, 1.0)), Tolerance(error=1e-5))) < 1e-4


def test_samples_have_no_first_actions(tmp_path: Path) -> None:
    base = network()
    model = Model(base, SAMPLING, SHAPE, made("lora", base), 2)
    with pytest.raises(PcmError, match=r"warm=0\.1"):
        distil(model, torch.zeros(4).long(), TrainConfig(steps=1), tmp_path, warm=0.1)
    with pytest.raises(PcmError, match="multiple of 8"):
        ConvolutionalHead(STEPS, SHAPE, width=12)
