"""Train networks and heads on handwritten digits, measure them, leave a page.

    python -m examples.images --output DIR [--resume] [--processes N] [--quick] [--docs]

``DIR/index.html`` has the grids and tables, ``DIR/result.json`` all numbers. ``--resume`` goes on
with what a run that was cut off has trained. Networks, and then heads, are trained side by side, in
``--processes`` of one thread each: the cores of the machine unless given. ``--quick`` tries every
part with sizes that teach nothing. ``--docs`` also keeps result and picture in the repository,
from where ``python -m benchmarks.figures`` makes the tables of the document.
"""

import argparse
import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.images import measure, page
from examples.images.base import diffusers, trained
from examples.images.digits import NONE, Digits, trained_classifier
from examples.images.heads import RECIPES, distilled
from examples.images.measure import Judge, Problem
from examples.images.processes import side_by_side
from pcm_policy.files import to_json, write_text
from pcm_policy.heads import Head
from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.measure.tables import table
from pcm_policy.sampling.library import Conditional, Guided
from pcm_policy.solvers import PCM, Anderson, Picard, Rounds, Sequential, Tolerance
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sample import sample


class Clock:
    """Seconds of the parts of a run: by the clock, and of all processes on their processors."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[str, float]] = {}
        self._last = self._now()

    @staticmethod
    def _now() -> tuple[float, float]:
        spent = os.times()
        return time.perf_counter(), sum(spent[:4])  # with the processes that have ended

    def __call__(self, part: str) -> None:
        """Note what has passed since the part before."""
        now = self._now()
        passed = (b - a for a, b in zip(self._last, now, strict=True))
        self.parts[part] = dict(zip(("clock", "processor"), passed, strict=True))
        self._last = now

    def said(self) -> str:
        """Return all of it in words."""
        clock, busy = (sum(p[k] for p in self.parts.values()) for k in ("clock", "processor"))
        return f"{clock / 60:.1f} minutes, {busy / 60:.1f} of a processor"


@dataclass(frozen=True)
class Sizes:
    """How much of everything; the defaults take some minutes on two cores."""

    width: int = 16
    denoising: int = 2600
    flow: int = 1500
    classifier: int = 600
    batch: int = 8
    judged: int = 300
    rounds: tuple[int, int] = (8, 4)
    ddim: int = 50
    ddpm: int = 100
    distilled: int = 20  # steps of the DDIM that heads are distilled for
    heads: int | None = None  # None for each recipe's own steps
    pool: int | None = None
    calls: int = 3  # that are timed, of each solver


QUICK = Sizes(8, 1, 1, 5, 2, 30, (2, 1), 4, 4, 3, 1, 8, 1)


def networks(
    sizes: Sizes, digits: Digits, output: Path, resume: bool, processes: int
) -> tuple[Conditional, Conditional]:
    """Train a network that predicts noise, and one that predicts a flow's velocity."""
    d = diffusers()
    calls = [
        (scheduler, digits, sizes.width, steps, output / name)
        for scheduler, steps, name in (
            (d.DDIMScheduler(), sizes.denoising, "noise"),
            (d.FlowMatchEulerDiscreteScheduler(), sizes.flow, "flow"),
        )
    ]
    side_by_side(trained, [(*call, resume) for call in calls], processes)
    noise, flow = (trained(*call, resume=True) for call in calls)
    return noise, flow


def solvers(sizes: Sizes, noise: Conditional, flow: Conditional) -> list[dict[str, Any]]:
    """Compare all solvers with diffusers' loops, on DDIM, DDPM and a flow."""
    d, rows = diffusers(), []
    for name, network, scheduler, steps, parallel in (
        ("ddim", noise, d.DDIMScheduler(), sizes.ddim, d.DDIMParallelScheduler()),
        ("ddpm", noise, d.DDPMScheduler(), sizes.ddpm, d.DDPMParallelScheduler()),
        ("flow", flow, d.FlowMatchEulerDiscreteScheduler(), sizes.ddim, None),
    ):
        problem = Problem.of(network, scheduler, steps, sizes.batch, 1)
        own = measure.exactness(problem, f"{name}-{steps}")
        if parallel is not None:
            own.append(measure.published(problem, f"{name}-{steps}", parallel, 0.1))
        rows += measure.timed(own, sizes.calls)
    return rows


def heads(
    sizes: Sizes, problem: Problem, digits: Digits, output: Path, resume: bool, processes: int
) -> dict[str, Head]:
    """Distil every head."""
    calls = {}
    for name, recipe in RECIPES.items():
        steps = sizes.heads or recipe.steps
        recipe = replace(recipe, steps=steps, pool=sizes.pool or recipe.pool)
        base = problem.network, problem.sampling, digits.labels
        calls[name] = (recipe, *base, output / name.replace(", ", "-"))
    longest = reversed(calls.values())
    side_by_side(distilled, [(*call, resume) for call in longest], processes)
    return {name: distilled(*call, resume=True) for name, call in calls.items()}


def guidance(network: Conditional, problem: Problem) -> dict[str, Tensor]:
    """Return images of the digits 0 to 9, guided more and more, in parallel rounds."""
    rows = {}
    for scale in (1.0, 2.0, 4.0):
        guided = Guided(network, scale, torch.tensor(NONE))
        solver = Solver(Anderson(), Tolerance(error=1e-3))
        noise, cond = problem.noise.pick(torch.arange(10)), problem.labels[:10]
        found = sample(guided, problem.sampling, noise, solver, cond=cond)
        rows[f"guidance {scale:g}, {found.rounds} rounds"] = found.sample
    return rows


def run(sizes: Sizes, output: Path, resume: bool = False, processes: int = 1) -> dict[str, Any]:
    """Do everything; returns the report and leaves the page."""
    clock, digits = Clock(), Digits.load()
    classifier, accuracy = trained_classifier(digits, sizes.classifier)
    work = output / "training"
    noise, flow = networks(sizes, digits, work, resume, processes)
    clock("networks")
    rows = solvers(sizes, noise, flow)
    clock("solvers")
    scheduler = diffusers().DDIMScheduler()
    problem = Problem.of(noise, scheduler, sizes.distilled, sizes.judged, 7)
    exact = problem.solve(Solver(Sequential()), None).sample
    judge = Judge(classifier, classifier.features(digits.images), exact)
    known = heads(sizes, problem, digits, work, resume, processes)
    clock("heads")
    traces = measure.by_round(problem, judge, known, sizes.rounds)
    sequential = judge.frechet(exact)
    few = Problem.of(noise, scheduler, sizes.distilled, sizes.batch, 3)
    few_exact = few.solve(Solver(Sequential()), None).sample
    report: dict[str, Any] = made_by() | {
        "hardware": hardware(torch.device("cpu")),
        "accuracy": accuracy,
        "solved": rows,
        "sequential": sequential,
        "rounds": traces,
        "equal": {n: measure.equal_rounds(t, sequential) for n, t in traces.items()},
        "switching_steps": sizes.distilled,
        "switching": {n: measure.switching(few, h, few_exact) for n, h in known.items()},
    }
    shown = {"sequential": exact}
    shown |= {f"Picard, {k} rounds": problem.walk(Picard(), Rounds(k), None)[-1] for k in (2, 4)}
    for name, head in known.items():
        shown[f"{name}, 2 rounds"] = problem.walk(PCM(), Rounds(2), None, head)[-1]
    page.grid(shown, output / "images.png")
    page.grid(guidance(noise, problem), output / "guidance.png")
    clock("images")
    report |= {"seconds": clock.parts, "took": clock.said(), "resumed": resume}
    write_text(output / "result.json", to_json(report))
    page.write_page(report, output)
    shutil.rmtree(work)
    return report


def tables(report: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return the name, head and rows of every table."""
    return [
        ("images-solvers", page.SOLVED, page.solved(report["solved"])),
        ("images-rounds", page.ROUNDS, page.by_round(report)),
    ]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was cut off")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    parser.add_argument("--processes", type=int, default=cores, help="that train at once")
    parser.add_argument("--quick", action="store_true", help="sizes that teach nothing")
    parser.add_argument("--docs", action="store_true", help="keep result and picture for the docs")
    args = parser.parse_args()
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"{args.output} is a file: give a new folder")
    if args.output.exists() and any(args.output.iterdir()) and not args.resume:
        parser.error(f"{args.output} is not empty: give a new folder, or --resume")
    if args.processes < 1:
        parser.error(f"--processes {args.processes}: use 1 or more")
    args.output.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if args.quick else Sizes()
    report = run(sizes, args.output, args.resume, args.processes)
    for _, head, rows in tables(report):
        print(table(head, rows), end="\n\n")
    print(args.output / "index.html", report["took"])
    if args.docs:
        from benchmarks import RESULTS

        write_text(RESULTS / "images.json", to_json(report))
        shutil.copyfile(args.output / "images.png", RESULTS / "images.png")


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keep the lines of the description."""


if __name__ == "__main__":
    main()
