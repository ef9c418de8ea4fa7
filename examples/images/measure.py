"""Rounds, errors, Frechet distances and times of solvers and heads."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from examples.images.digits import SHAPE, Classifier, frechet
from examples.images.paradigms import paradigms
from pcm_policy.heads.base import Head
from pcm_policy.runtime.timing import take_turns
from pcm_policy.sampling.diffusers import from_diffusers
from pcm_policy.sampling.library import Conditional, Sampling
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    PCM,
    Anderson,
    Newton,
    Paradigms,
    Picard,
    Rounds,
    Sequential,
    Step,
    Stop,
    Tolerance,
    rounds,
    start,
)
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.newton import MixedNewton
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.sample import measured_jacobian, sample

ERROR = 1e-2
"""Largest error of a pixel, in [-1, 1], that counts as the same image."""
EXACT = 1e-4
EQUAL = 1.05
"""Frechet distances within this factor of the sequential images' count as equal."""
STEPS: dict[str, Step] = {
    "picard": Picard(),
    "anderson": Anderson(),
    "quasi-newton": MixedNewton(),
    "paradigms": Paradigms(),
}


@dataclass(frozen=True)
class Problem:
    """Images to sample: a network, a scheduler of diffusers, noise and labels."""

    network: Conditional
    scheduler: Any
    sampling: Sampling
    noise: Noise
    labels: Tensor
    seed: int

    @classmethod
    def of(
        cls, network: Conditional, scheduler: Any, steps: int, count: int, seed: int
    ) -> "Problem":
        """Draw noise and labels."""
        sampling, own = from_diffusers(scheduler, steps), steps_generator(seed)
        initial = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
        more = range(sampling.sampler.noise_steps)
        each = [torch.randn(count, *SHAPE, generator=own) for _ in more]
        noise = Noise(initial, torch.stack(each) if each else None)
        return cls(network, scheduler, sampling, noise, torch.arange(count) % 10, seed)

    @property
    def steps(self) -> int:
        """``N``."""
        return self.sampling.steps

    def jacobian(self) -> Jacobian:
        """Return the mean Jacobian, measured on as many other samples, at least 8, at most 32."""
        rows = min(32, max(8, len(self.labels)))
        other = Problem.of(self.network, self.scheduler, self.steps, rows, 10**6)
        return measured_jacobian(self.network, self.sampling, other.noise, other.labels)

    def solve(self, solver: Solver, jacobian: Jacobian | None, head: Head | None = None) -> Any:
        """Return a solve's result."""
        more = {"cond": self.labels, "jacobian": jacobian, "head": head}
        return sample(self.network, self.sampling, self.noise, solver, **more)  # type: ignore[arg-type]

    @torch.no_grad()
    def theirs(self) -> Tensor:
        """Return what diffusers' own loop samples from the same noise."""
        scheduler, x, own = self.scheduler, self.noise.initial, steps_generator(self.seed)
        scheduler.set_timesteps(self.steps)
        for t in scheduler.timesteps:
            out = self.network(x, t.expand(len(x)), self.labels)
            x = scheduler.step(out, t, x, generator=own).prev_sample
        return x

    @torch.no_grad()
    def walk(
        self, step: Step, stop: Stop, jacobian: Jacobian | None, head: Head | None = None
    ) -> list[Tensor]:
        """Return the images after every round until a stop."""
        denoise = self.sampling.denoiser(self.network, self.noise, self.labels)
        s, x = start(denoise, self.noise, head=head, jacobian=jacobian)
        return [x.X[-1] for _, x, _ in rounds(s, x, step, stop)]


def steps_generator(seed: int) -> torch.Generator:
    """Return the generator of the steps' noise."""
    return torch.Generator().manual_seed(seed + 2**32)


def largest(a: Tensor, b: Tensor) -> Tensor:
    """Return the largest difference of a pixel in every image, ``(B,)``."""
    return (a - b).abs().flatten(1).amax(dim=1)


def rounds_to(images: list[Tensor], exact: Tensor, error: float) -> float:
    """Return the mean number of rounds after which an image stays within an error."""
    above = torch.stack([largest(x, exact) > error for x in images]).int()
    last = above * torch.arange(1, len(images) + 1)[:, None]
    return float((last.amax(dim=0) + 1).float().mean())


@dataclass(frozen=True)
class Row:
    """A row of the table of solvers, without its time, and what is timed."""

    values: dict[str, Any]
    run: Callable[[], Any]

    def __call__(self, number: int) -> None:
        """Run it, whatever the number of the turn."""
        self.run()


def exactness(problem: Problem, name: str) -> list[Row]:
    """Compare every solver's images with those of diffusers' loop; count rounds."""
    theirs, jacobian = problem.theirs(), problem.jacobian()
    sequential = Solver(Sequential())
    first = problem.solve(sequential, None)
    values = {
        "sampler": name,
        "solver": "sequential",
        "error": float(largest(first.sample, theirs).max()),
        "rounds": float(problem.steps),
        "fewer": 1.0,
        "nfe": problem.steps,
    }
    rows = [Row(values, partial(problem.solve, sequential, None))]
    for solver, step in STEPS.items():
        images = problem.walk(step, Tolerance(error=EXACT / 10), jacobian)
        count = rounds_to(images, first.sample, ERROR)
        run = partial(problem.solve, Solver(step, Tolerance(error=ERROR, safety=1.0)), jacobian)
        values = {
            "sampler": name,
            "solver": solver,
            "error": float(largest(images[-1], theirs).max()),
            "rounds": count,
            "fewer": problem.steps / count,
            "nfe": run().nfe,
        }
        rows.append(Row(values, run))
    return rows


def published(problem: Problem, name: str, parallel: Any, tolerance: float) -> Row:
    """Return the row of diffusers' own parallel scheduler, at a tolerance of its own kind."""
    batch = len(problem.labels)

    def network(x: Tensor, t: Tensor) -> Tensor:
        return problem.network(x, t, problem.labels.repeat(len(x) // batch))

    run = partial(paradigms, parallel, problem.steps, network, problem.noise, tolerance)
    images, count = run()
    values = {
        "sampler": name,
        "solver": f"{type(parallel).__name__}, tolerance {tolerance:g}",
        "error": float(largest(images, problem.theirs()).max()),
        "rounds": float(count),
        "fewer": problem.steps / count,
        "nfe": None,
    }
    return Row(values, run)


def timed(rows: Sequence[Row], calls: int) -> list[dict[str, Any]]:
    """Return the rows with the seconds of a run: medians of some calls on one thread, in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        spent = take_turns(rows, calls, warmup=0)  # each has run once, for its numbers
    finally:
        torch.set_num_threads(threads)
    medians = [1e-3 * median(own) for own in spent]
    return [row.values | {"seconds": s} for row, s in zip(rows, medians, strict=True)]


@dataclass(frozen=True)
class Judge:
    """What images are compared with.

    Attributes:
        classifier: makes features.
        real: features of real images.
        exact: the sequential sampler's images.
    """

    classifier: Classifier
    real: Tensor
    exact: Tensor

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Return errors to the sequential images and the Frechet distance to the real ones."""
        rmse = (images - self.exact).square().flatten(1).mean(dim=1).sqrt()
        return {
            "rmse": float(rmse.mean()),
            "largest": float(largest(images, self.exact).mean()),
            "frechet": self.frechet(images),
        }

    @torch.no_grad()
    def frechet(self, images: Tensor) -> float:
        """Return the Frechet distance to the real images."""
        return frechet(self.classifier.features(images), self.real)


def by_round(
    problem: Problem, judge: Judge, heads: Mapping[str, Head], counts: tuple[int, int]
) -> dict[str, list[dict[str, float]]]:
    """Return error and Frechet distance after every round: of base solvers, then of heads.

    Args:
        problem: of the heads' sampler.
        judge: compares.
        heads: by name.
        counts: rounds of base solvers, and of heads.
    """
    jacobian, (many, few) = problem.jacobian(), counts
    given = problem.noise, problem.labels
    found = {
        name: [judge(x) for x in problem.walk(step, Rounds(many), jacobian)]
        for name, step in STEPS.items()
    }
    for name, head in heads.items():
        own = replace(PCM(), shares=(1.0,) * few)
        found[name] = [judge(x) for x in problem.walk(own, Rounds(few), None, head)]
        measured = head.jacobian(problem.sampling.denoiser(problem.network, *given).sampler)
        if measured is not None:
            switched = PCM((1.0, 1.0), then=Newton())
            images = problem.walk(switched, Rounds(few + 1), measured, head)
            found[f"{name}; after 2 rounds quasi-Newton"] = [judge(x) for x in images]
    return found


def equal_rounds(trace: list[dict[str, float]], sequential: float) -> int | None:
    """Return the first round from which on the Frechet distance equals the sequential images'."""
    equal = [row["frechet"] <= EQUAL * sequential for row in trace]
    for i in range(len(equal)):
        if all(equal[i:]):
            return i + 1
    return None


def switching(problem: Problem, head: Head, exact: Tensor) -> dict[str, float]:
    """Return the largest error after as many rounds as steps: the head alone, and switched off."""
    alone = problem.walk(PCM((1.0,) * problem.steps), Rounds(problem.steps), None, head)[-1]
    solver = Solver(PCM((1.0, 1.0)), Tolerance(error=EXACT / 10))
    switched = problem.solve(solver, None, head)
    return {
        "alone": float(largest(alone, exact).max()),
        "alone_mean": float(largest(alone, exact).mean()),
        "switched": float(largest(switched.sample, exact).max()),
        "rounds": switched.rounds,
    }
