"""PCM heads for the digits: LoRA and full copy by the paper's recipe, and window heads by both."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples.images.digits import CLASSES, SHAPE
from pcm_policy.heads import CopyHead, Head, LoraHead
from pcm_policy.heads.convolution import ConvolutionalHead
from pcm_policy.sampling.library import Conditional, Sampling
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.library import OURS, PAPER, Model, distil

WIDTH = 64


@dataclass(frozen=True)
class Recipe:
    """How a head is made and distilled.

    Attributes:
        kind: ``lora``, ``copy`` or ``window``.
        steps: optimiser steps.
        batch: samples in a step, each at every iterate.
        lr: learning rate.
        how: the objective's settings.
        pool: samples that the base solves at once.
        reuse: steps that use a sample.
    """

    kind: str
    steps: int
    batch: int
    lr: float
    how: dict[str, Any] = field(default_factory=lambda: dict(OURS))
    pool: int = 500
    reuse: int = 16


RECIPES: dict[str, Recipe] = {
    # one pool that stays, as the paper's 500 recorded trajectories
    "lora, paper": Recipe("lora", 100, 8, 2e-3, PAPER, pool=300, reuse=10**6),
    "copy, paper": Recipe("copy", 100, 8, 5e-4, PAPER, pool=300, reuse=10**6),
    "window, paper": Recipe("window", 400, 32, 2e-3, PAPER, reuse=10**6),
    "window, ours": Recipe("window", 1000, 32, 2e-3, OURS),
}
"""The paper's learning rate is 1e-4 for 50 epochs; these few steps need a larger one."""


def untrained(kind: str, network: Conditional, steps: int) -> Head:
    """Return a head of a kind, of the same weights every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "lora":
            return LoraHead(network, rank=8)
        if kind == "copy":
            return CopyHead(network)
        labels = nn.Embedding(CLASSES + 1, WIDTH)
        return ConvolutionalHead(steps, SHAPE, width=WIDTH, nodes=8, cond=labels, cond_width=WIDTH)


def distilled(
    recipe: Recipe,
    network: Conditional,
    sampling: Sampling,
    labels: Tensor,
    output: Path,
    resume: bool,
) -> Head:
    """Train a head on samples of the network with the digits' labels."""
    model = Model(network, sampling, SHAPE, untrained(recipe.kind, network, sampling.steps), 3)
    config = TrainConfig(
        recipe.steps,
        recipe.batch,
        lr=recipe.lr,
        warmup=max(1, recipe.steps // 20),
        ema=0.99,
        log_every=max(1, recipe.steps // 10),
        save_every=recipe.steps,
    )
    options = {"pool": recipe.pool, "reuse": recipe.reuse, **recipe.how}
    return distil(model, labels, config, output, resume=resume, **options)
