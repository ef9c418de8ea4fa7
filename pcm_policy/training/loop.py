"""The one training loop: behaviour cloning and PCM distillation differ by their objective.

Runs on Hugging Face accelerate: device, precision and number of processes are the launcher's.
Every random number of step ``i`` is a function of (seed, i), drawn for the whole batch; a process
takes its share of the rows. So a resumed run repeats an uninterrupted one, and several processes
train on the same samples as one.
"""

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
from pcm_policy.training.config import FREE, TrainConfig, learning_rate
from pcm_policy.training.metrics import Metrics
from pcm_policy.training.output import CHECKPOINTS, METRICS
from pcm_policy.training.saying import say
from pcm_policy.training.state import Tensors, flat, newest_state, save_state


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

    def state(self) -> Tensors:
        """Return what is kept from one step to the next beside the module, for a checkpoint."""

    def restore(self, state: Tensors) -> None:
        """Take back what :meth:`state` returned."""


class _Loss(nn.Module):
    """An objective's loss as the forward of one module, which distributed training wraps.

    An objective may therefore call its module, and the module's other methods, any number of times.
    """

    def __init__(self, objective: Objective, share: Share) -> None:
        super().__init__()
        self.module = objective.module
        self._loss, self._share = objective.loss, share

    def forward(self, step: int) -> Tensor:
        return self._loss(self.module, step, self._share)


def fit(
    objective: Objective,
    config: TrainConfig,
    output: Path,
    accelerator: Accelerator,
    *,
    resume: bool = False,
    made_from: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Train ``objective.module`` and return the average of its weights, in eval mode.

    Writes ``metrics.jsonl`` and ``checkpoints/`` below ``output``; the accelerator knows device,
    precision and processes.

    Args:
        objective: what is trained, and on what.
        config: how.
        output: the run's folder; the caller holds it, see
            :func:`~pcm_policy.training.output.occupied`.
        accelerator: device, precision and processes.
        resume: go on from the newest checkpoint that is whole.
        made_from: settings and digests, nested, that a resumed run must share beside ``config``.

    Raises:
        PcmError: the batch does not divide over the processes; all checkpoints are damaged, or
            were written by a run that was made from something else; a loss or weights that are
            not finite.
    """
    run = _Run(objective, config, output, accelerator, made_from or {})
    done = run.begin(resume)
    quiet = None if accelerator.is_main_process else True
    with tqdm(total=config.steps, initial=done, unit="step", disable=quiet) as bar:
        for step in range(done, config.steps):
            loss, norm = run.step(step)
            bar.update()
            ended = step + 1 == config.steps
            if ended or (step + 1) % config.log_every == 0:
                bar.set_postfix(run.report(step + 1, loss, norm))
            if ended or (step + 1) % config.save_every == 0:
                run.save(step + 1)
    result: nn.Module = run.ema.module.eval()
    return result


class _Run:
    """Weights, averages, optimiser and files of one run."""

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        output: Path,
        accelerator: Accelerator,
        made_from: Mapping[str, Any],
    ) -> None:
        world = accelerator.num_processes
        if config.batch % world:
            raise PcmError(f"train.batch={config.batch} does not divide over {world} processes")
        self.objective, self.config, self.accelerator = objective, config, accelerator
        self.root, self.output, self.last = output / CHECKPOINTS, output, 0
        settings = {k: v for k, v in asdict(config).items() if k not in FREE}
        self.made_from = flat({"train": settings, **made_from})
        objective.to(accelerator.device)
        self.raw = objective.module.to(accelerator.device).train()
        optimizer = torch.optim.AdamW(
            self.raw.parameters(),
            lr=config.lr,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.ema = AveragedModel(self.raw, multi_avg_fn=_average(config.ema), use_buffers=False)
        loss = _Loss(objective, Share(accelerator.process_index, world))
        self.plain_optimizer = optimizer
        self.loss, self.optimizer = accelerator.prepare(loss, optimizer)
        self.metrics: Metrics | None = None

    def begin(self, resume: bool) -> int:
        """Restore the newest checkpoint, if there is one; returns the steps that are done."""
        if resume:
            self.last = self._restore()
        if self.accelerator.is_main_process:
            self.metrics = Metrics(self.output / METRICS, self.last)
        world, device = self.accelerator.num_processes, self.accelerator.device
        many = "1 process" if world == 1 else f"{world} processes"
        precision = self.accelerator.mixed_precision
        say(f"training in {many} on {device}, mixed precision {precision}")
        return self.last

    def _restore(self) -> int:
        with self.accelerator.main_process_first():  # it sets damaged ones aside
            checkpoint = newest_state(self.root, self.made_from)
        if checkpoint is None:
            say(f"nothing to resume in {self.output}: from step 0")
            return 0
        checkpoint.restore(self.raw, self.ema, self.plain_optimizer)
        self.objective.restore(checkpoint.parts["objective"])
        say(f"resuming {self.output} from step {checkpoint.step}")
        return int(checkpoint.step)

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Take one optimiser step; returns this process's loss and the gradient's norm."""
        rate = learning_rate(self.config, step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            loss = self.loss(step)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        parameters, largest = self.loss.parameters(), self.config.largest_norm
        norm = self.accelerator.clip_grad_norm_(parameters, largest)
        self.optimizer.step()
        self.ema.update_parameters(self.raw)
        return loss.detach(), norm

    def report(self, done: int, loss: Tensor, norm: Tensor) -> dict[str, str]:
        """Log a step; returns what the progress bar shows."""
        value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {done}")
        rate = learning_rate(self.config, done - 1)
        if self.metrics is not None:
            self.metrics.write(done, {"loss": value, "lr": rate, "grad_norm": float(norm)})
        return {"loss": f"{value:.4f}", "lr": f"{rate:.1e}"}

    @torch.no_grad()
    def save(self, done: int) -> None:
        """Validate and write a checkpoint, unless a weight is not finite."""
        if not _finite(self.raw) or not _finite(self.ema):
            raise self._diverged(f"weights are not finite after step {done}")
        if self.metrics is not None:
            held_out = self.objective.validate(self.ema.module.eval())
            if held_out:
                self.metrics.write(done, held_out)
            parts = self.raw, self.ema, self.plain_optimizer, self.objective.state()
            save_state(self.root, done, *parts, self.made_from, self.config.keep)
        self.accelerator.wait_for_everyone()
        self.last = done

    def _diverged(self, what: str) -> PcmError:
        return PcmError(
            f"{what}: lower train.lr (it is {self.config.lr:g}); with resume=true training goes on "
            f"from step {self.last}"
        )


def _finite(module: nn.Module) -> bool:
    found = [value.isfinite().all() for value in module.parameters()]
    return not found or bool(torch.stack(found).all())


def _average(decay: float) -> Any:
    """Return torch's averaging hook: an exponential average that warms up from the start."""

    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        seen = int(count)
        weight = min(decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(averaged, current, 1 - weight)

    return update
