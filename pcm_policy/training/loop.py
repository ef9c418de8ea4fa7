"""The one training loop: behaviour cloning and PCM distillation differ by their objective.

Runs on Hugging Face accelerate: device, precision and number of processes are the launcher's.
Every random number of step ``i`` is a function of (seed, i), drawn for the whole batch; a process
takes its share of the rows, in one part or in several (``train.accumulate``). So a resumed run
repeats an uninterrupted one, and several processes train on the same samples as one.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from pcm_policy.errors import PcmError
from pcm_policy.training.config import FREE, TrainConfig, learning_rate
from pcm_policy.training.metrics import Metrics
from pcm_policy.training.output import CHECKPOINTS, METRICS
from pcm_policy.training.replicas import Objective, Replicas
from pcm_policy.training.saying import say
from pcm_policy.training.sharing import Team, check_divides
from pcm_policy.training.state import Tensors, flat, newest_state, save_state
from pcm_policy.training.timing import Stopwatch


def fit(
    objective: Objective,
    config: TrainConfig,
    output: Path,
    accelerator: Accelerator,
    *,
    resume: bool = False,
    made_from: Mapping[str, Any] | None = None,
    weights: type[Replicas] = Replicas,
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
        weights: how processes hold them.

    Raises:
        PcmError: the batch does not divide over processes and parts; all checkpoints are damaged,
            or were written by a run that was made from something else; a loss or weights that are
            not finite.
    """
    run = _Run(objective, config, output, accelerator, made_from or {}, weights)
    done = run.begin(resume)
    quiet = None if accelerator.is_main_process else True
    with tqdm(total=config.steps, initial=done, unit="step", disable=quiet) as bar:
        for step in range(done, config.steps):
            with run.watch:
                loss, norm = run.step(step)
            bar.update()
            ended = step + 1 == config.steps
            if ended or (step + 1) % config.log_every == 0:
                bar.set_postfix(run.report(step + 1, loss, norm))
            if ended or (step + 1) % config.save_every == 0:
                run.save(step + 1)
    return run.weights.average()


class _Run:
    """Weights, averages, optimiser and files of one run."""

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        output: Path,
        accelerator: Accelerator,
        made_from: Mapping[str, Any],
        weights: type[Replicas],
    ) -> None:
        world = accelerator.num_processes
        check_divides("train.batch", config.batch, world, config.accumulate)
        self.objective, self.config, self.accelerator = objective, config, accelerator
        self.root, self.output, self.last = output / CHECKPOINTS, output, 0
        settings = {k: v for k, v in asdict(config).items() if k not in FREE}
        self.made_from = flat({"train": settings, **made_from})
        self.team = Team(accelerator.process_index, world, accelerator.gather)
        objective.to(accelerator.device)
        self.weights = weights(objective, config, accelerator, self.team)
        self.metrics: Metrics | None = None
        self.watch, self.reported = Stopwatch(), 0

    def begin(self, resume: bool) -> int:
        """Restore the newest checkpoint, if there is one; returns the steps that are done."""
        if resume:
            self.last = self.reported = self._restore()
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
        self.weights.restore(checkpoint)
        self.objective.restore(checkpoint.parts["objective"])
        say(f"resuming {self.output} from step {checkpoint.step}")
        return int(checkpoint.step)

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Take one optimiser step; returns this process's loss and the gradient's norm."""
        weights, parts = self.weights, self.config.accumulate
        rate = learning_rate(self.config, step)
        for group in weights.optimizer.param_groups:
            group["lr"] = rate
        with self.accelerator.autocast():
            self.objective.begin(step, self.team)
        weights.optimizer.zero_grad()
        losses = []
        for part in range(parts):
            with weights.accumulating(last=part + 1 == parts):
                with self.accelerator.autocast():
                    loss = weights.loss(step, part) / parts
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        norm = weights.clip(self.config.largest_norm)
        weights.optimizer.step()
        weights.ema.update_parameters(weights.raw)
        return torch.stack(losses).sum(), norm

    def report(self, done: int, loss: Tensor, norm: Tensor) -> dict[str, str]:
        """Log a step; returns what the progress bar shows."""
        with self.watch:  # a GPU may be at it still
            value = float(self.accelerator.reduce(loss, "mean"))
        if not math.isfinite(value):
            raise self._diverged(f"the loss is {value} at step {done}")
        rate = learning_rate(self.config, done - 1)
        if self.metrics is not None:
            found = {"loss": value, "lr": rate, "grad_norm": float(norm)}
            self.metrics.write(done, found | self._seconds(done))
        return {"loss": f"{value:.4f}", "lr": f"{rate:.1e}"}

    def _seconds(self, done: int) -> dict[str, float]:
        """Return the mean seconds of a step since the last report, and of the parts of one."""
        steps, self.reported = done - self.reported, done
        spent = {"step_s": self.watch.taken(), **self.objective.spent()}
        return {name: round(seconds / steps, 6) for name, seconds in spent.items()}

    @torch.no_grad()
    def save(self, done: int) -> None:
        """Validate and write a checkpoint, unless a weight is not finite."""
        parts = self.weights.parts()
        if not _finite(parts, [name for name, _ in self.weights.raw.named_parameters()]):
            raise self._diverged(f"weights are not finite after step {done}")
        average = self.weights.average()
        if self.metrics is not None:
            held_out = self.objective.validate(average)
            if held_out:
                self.metrics.write(done, held_out)
            parts["objective"] = self.objective.state()
            save_state(self.root, done, parts, self.made_from, self.config.keep)
        self.accelerator.wait_for_everyone()
        self.last = done

    def _diverged(self, what: str) -> PcmError:
        return PcmError(
            f"{what}: lower train.lr (it is {self.config.lr:g}); with resume=true training goes on "
            f"from step {self.last}"
        )


def _finite(parts: Mapping[str, Tensors], names: list[str]) -> bool:
    values = [parts["model"][name] for name in names]
    values += [parts["ema"][f"module.{name}"] for name in names]
    found = [value.isfinite().all() for value in values]
    return not found or bool(torch.stack(found).all())
