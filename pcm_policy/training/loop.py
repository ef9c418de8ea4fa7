"""The one training loop: behaviour cloning and PCM distillation differ by their objective.

Runs on Hugging Face accelerate: device, precision and number of processes are the launcher's.
Every random number of step ``i`` is a function of (seed, i), drawn for the whole batch; a process
takes its share of the rows. So a resumed run repeats an uninterrupted one, and several processes
train on the same samples as one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from pcm_policy.errors import PcmError
from pcm_policy.training.state import load_state, save_state


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever the objective.

    Attributes:
        steps: optimiser steps.
        batch: rows per step over all processes.
        lr: peak learning rate of AdamW.
        warmup: steps of linear warm-up before the cosine decay to zero.
        beta1: AdamW's.
        beta2: AdamW's.
        weight_decay: AdamW's.
        clip_norm: largest gradient norm.
        ema: weight of the past in the average of the weights; reached by ``(1 + i) / (10 + i)``.
        seed: all randomness derives from it.
        log_every: steps between lines of ``metrics.jsonl``.
        save_every: steps between checkpoints.
        keep: checkpoints kept.
    """

    steps: int
    batch: int = 256
    lr: float = 1e-3
    warmup: int = 500
    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 1e-6
    clip_norm: float = 1.0
    ema: float = 0.999
    seed: int = 0
    log_every: int = 100
    save_every: int = 2000
    keep: int = 2

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise PcmError(f"train.{name}={getattr(self, name)}: must be at least 1")
        if not self.lr > 0 or not 0 <= self.ema < 1:
            raise PcmError(f"train.lr={self.lr} must be positive, train.ema={self.ema} in [0, 1)")


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one process works on."""

    rank: int
    world: int

    def __call__(self, rows: Tensor, dim: int = 0) -> Tensor:
        """Return every ``world``-th row, starting at ``rank``."""
        index = torch.arange(self.rank, rows.shape[dim], self.world, device=rows.device)
        return rows.index_select(dim, index)


class Objective(Protocol):
    """What is trained, and on what."""

    module: nn.Module

    def to(self, device: torch.device) -> None:
        """Move data and frozen weights."""

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the mean loss over this process's rows of the batch of ``step``."""

    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return figures on held-out data, for the log."""


class _Loss(nn.Module):
    """An objective's loss as one module's forward, which is what several processes wrap.

    So an objective may call its module as often as it likes, and other methods of it.
    """

    def __init__(self, objective: Objective, share: Share) -> None:
        super().__init__()
        self.module = objective.module
        self._loss, self._share = objective.loss, share

    def forward(self, step: int) -> Tensor:
        return self._loss(self.module, step, self._share)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of 0-based ``step``: linear warm-up, then cosine to zero."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def fit(
    objective: Objective,
    config: TrainConfig,
    output: Path,
    accelerator: Accelerator,
    *,
    resume: bool = False,
) -> nn.Module:
    """Train ``objective.module`` and return the average of its weights, in eval mode.

    Writes ``metrics.jsonl`` and ``checkpoints/`` below ``output``; the accelerator knows device,
    precision and processes.

    Raises:
        PcmError: the batch does not divide over the processes, the output folder is not empty
            without ``resume``, a checkpoint is damaged, or the loss is not finite.
    """
    share = Share(accelerator.process_index, accelerator.num_processes)
    if config.batch % share.world:
        raise PcmError(f"train.batch={config.batch} does not divide over {share.world} processes")
    root = output / "checkpoints"
    if not resume and root.exists():
        raise PcmError(f"{root} exists: continue it with resume=true or choose another output_dir")
    objective.to(accelerator.device)
    raw = objective.module.to(accelerator.device).train()
    optimizer = torch.optim.AdamW(
        raw.parameters(),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    ema = AveragedModel(raw, multi_avg_fn=_average(config.ema), use_buffers=False)
    settings = json.loads(json.dumps(asdict(config)))
    done = load_state(root, raw, ema, optimizer, settings) if resume else 0
    module, optimizer = accelerator.prepare(_Loss(objective, share), optimizer)
    log = _Log(output / "metrics.jsonl", done) if accelerator.is_main_process else None
    bar = tqdm(
        total=config.steps,
        initial=done,
        unit="step",
        disable=None if accelerator.is_main_process else True,
    )
    for step in range(done, config.steps):
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with accelerator.autocast():
            loss = module(step)
        optimizer.zero_grad()
        accelerator.backward(loss)
        norm = accelerator.clip_grad_norm_(module.parameters(), config.clip_norm)
        optimizer.step()
        ema.update_parameters(raw)
        bar.update()
        if (step + 1) % config.log_every == 0 or step + 1 == config.steps:
            value = float(accelerator.reduce(loss.detach(), "mean"))
            if not math.isfinite(value):
                raise PcmError(
                    f"the loss is {value} at step {step + 1}: lower train.lr, then resume=true "
                    f"continues from the last checkpoint in {root}"
                )
            bar.set_postfix(loss=f"{value:.4f}", lr=f"{rate:.1e}")
            if log is not None:
                log.write(step=step + 1, loss=value, lr=rate, grad_norm=float(norm))
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            if log is not None:
                held_out = objective.validate(ema.module.eval())
                if held_out:
                    log.write(step=step + 1, **held_out)
                save_state(root, step + 1, raw, ema, optimizer, settings, config.keep)
            accelerator.wait_for_everyone()
    bar.close()
    result: nn.Module = ema.module.eval()
    return result


def _average(decay: float) -> Any:
    """Return torch's averaging hook: an exponential average that warms up from the start."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        weight = min(decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(averaged, current, 1 - weight)

    return update


class _Log:
    """``metrics.jsonl``; a resumed run drops the lines after its checkpoint."""

    def __init__(self, path: Path, done: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            for line in path.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # the line that a kill cut short
                if entry["step"] <= done:
                    kept.append(line + "\n")
        path.write_text("".join(kept))
        self.path = path

    def write(self, **entry: float) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
