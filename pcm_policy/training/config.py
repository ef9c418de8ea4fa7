"""How to train, whatever the objective: settings that are checked, and the learning rate."""

import math
from dataclasses import dataclass
from typing import Annotated

from pcm_policy.checks import LARGEST_SEED, number, whole
from pcm_policy.settings import Count, Natural, NonNegative, Positive, Range, Seed

Decay = Annotated[float, Range(least=0, below=1)]


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the objective.

    Attributes:
        steps: optimiser steps.
        batch: rows per step over all processes.
        accumulate: parts in which a process takes its rows of a step, one after another: the
            gradient is that of the whole batch, the memory that of a part.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up before the cosine decay to zero.
        beta1: AdamW's.
        beta2: AdamW's.
        weight_decay: AdamW's.
        clip_norm: largest gradient norm; None or 0: gradients are not clipped.
        ema: decay of the average of the weights; in step ``i`` at most ``(1 + i) / (10 + i)``.
        seed: all randomness derives from it.
        log_every: steps between lines of ``metrics.jsonl``.
        save_every: steps between checkpoints.
        keep: checkpoints kept.

    Raises:
        PcmError: a value of another type or out of range; the message names it.
    """

    steps: Count = 40_000
    batch: Count = 256
    accumulate: Count = 1
    lr: Positive = 1e-3
    warmup: Natural = 500
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    weight_decay: NonNegative = 1e-6
    clip_norm: NonNegative | None = 1.0
    ema: Decay = 0.9995
    seed: Seed = 0
    log_every: Count = 100
    save_every: Count = 2000
    keep: Count = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulate", "log_every", "save_every", "keep"):
            whole(f"train.{name}", getattr(self, name), 1)
        whole("train.warmup", self.warmup)
        whole("train.seed", self.seed, 0, LARGEST_SEED)
        number("train.lr", self.lr, above=0)
        number("train.weight_decay", self.weight_decay, 0)
        for name in ("beta1", "beta2", "ema"):
            number(f"train.{name}", getattr(self, name), 0, below=1)
        if self.clip_norm is not None:
            number("train.clip_norm", self.clip_norm, 0)

    @property
    def largest_norm(self) -> float:
        """What gradients are clipped to; infinity where they are not."""
        return self.clip_norm or math.inf


FREE = ("accumulate", "log_every", "save_every", "keep")
"""Settings that change no weight but for rounding: a resumed run may have others."""


def average_weight(ema: float, seen: int) -> float:
    """Return how far the average of the weights moves to the newest, after ``seen`` earlier ones.

    An average that warms up from the start: it forgets with ``min(ema, (1 + seen) / (10 + seen))``.
    """
    return 1 - min(ema, (1 + seen) / (10 + seen))


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of 0-based ``step``: linear warm-up, then cosine to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
