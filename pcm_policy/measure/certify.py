"""Safety factors of certificates, calibrated on solves whose true error is known.

A *row* is an observation with noise. It is solved to tolerances as in use, by several steps, and
its chunks are compared with the sequential sampler's of the same noise. The row's *score* is the
smallest factor of :data:`LADDER` with which all its certificates are true.

Rows are exchangeable: a new row's score is one more draw of the same kind. The ``r``-th largest of
``n`` scores is at least the ``coverage`` quantile of new scores with probability
``P(Binomial(n, 1 - coverage) >= r)``, whatever their distribution (Wilks 1941, *Determination of
sample sizes for setting tolerance limits*, Annals of Mathematical Statistics 12). With ``r = 1``
that is ``1 - coverage^n``: 2,995 rows say 99.9 % at 95 % confidence.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.precision import finest
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import SAMPLER, Solver
from pcm_policy.solvers.step import STEPS
from pcm_policy.solvers.stops import SAFETY

COVERAGE, CONFIDENCE = 0.999, 0.95
TOLERANCES = (1e-2, 1e-3)
LADDER = tuple(float(f"{SAFETY * 1.25**i:.3g}") for i in range(24))
"""Factors that are tried, from the usual one up; none of them is below it."""
WITHOUT_HEAD = ("picard", "anderson", "newton", "coarse", "subspace")
WITH_HEAD = ("pcm", "adaptive")
"""Steps that are measured on the sampler of a policy's head as well."""


def confidence_of(rows: int, rank: int, coverage: float) -> float:
    """Return the probability that the ``rank``-th largest of ``rows`` scores has a coverage.

    Example:
        >>> round(confidence_of(2995, 1, 0.999), 4), round(confidence_of(2994, 1, 0.999), 4)
        (0.95, 0.95)
        >>> confidence_of(2995, 1, 0.999) >= 0.95 > confidence_of(2994, 1, 0.999)
        True
    """
    logs = [
        math.lgamma(rows + 1)
        - math.lgamma(i + 1)
        - math.lgamma(rows - i + 1)
        + i * math.log(1 - coverage)
        + (rows - i) * math.log(coverage)
        for i in range(min(rank, rows + 1))
    ]
    return 1 - math.fsum(map(math.exp, logs))


def bounding(
    scores: Sequence[float], coverage: float = COVERAGE, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Return a bound on new scores, and the coverage that so many scores allow.

    The bound is the smallest of the scores that has the coverage at the confidence. Too few scores
    for that give their largest, and the coverage that it has: ``(1 - confidence)^(1/n)``.

    Args:
        scores: of ``n`` rows.
        coverage: wanted, below 1.
        confidence: of the coverage.

    Raises:
        PcmError: there are no scores, or one is not finite.

    Example:
        >>> bounding([4.0] * 2994 + [9.0])
        (9.0, 0.999)
        >>> bounding([4.0, 9.0], coverage=0.9)[1]  # (1 - 0.95) ** (1 / 2)
        0.2236
    """
    found = sorted(scores, reverse=True)
    if not found or not np.isfinite(found).all():
        raise PcmError("a bound needs finite scores, one at least")
    rank, rows = 0, len(found)
    while rank < rows and confidence_of(rows, rank + 1, coverage) >= confidence:
        rank += 1
    if rank:
        return found[rank - 1], coverage
    allowed = (1 - confidence) ** (1 / rows)
    return found[0], math.floor(allowed * 1e4) / 1e4


@dataclass(frozen=True)
class Plan:
    """Which certificates are tried.

    Attributes:
        sampler: whose chunks are certified.
        solvers: steps by name.
        tolerances: in normalised action units.
        solves: ``all``: every row by every step to every tolerance; ``one``: by one, in turn.
        batch: rows that are solved together.
    """

    sampler: SamplerConfig
    solvers: tuple[str, ...]
    tolerances: tuple[float, ...]
    solves: str = "all"
    batch: int = 64

    @property
    def cells(self) -> list[tuple[str, float]]:
        """All pairs of step and tolerance."""
        return [(name, error) for name in self.solvers for error in self.tolerances]

    def of_batch(self, number: int) -> list[tuple[str, float]]:
        """Return the pairs that the rows of a batch are solved with."""
        cells = self.cells
        return cells if self.solves == "all" else [cells[number % len(cells)]]


def plan_for(
    policy: DiffusionPolicy,
    sampler: SamplerConfig,
    dtype: torch.dtype,
    solves: str = "all",
    batch: int = 64,
    solvers: Sequence[str] | None = None,
) -> Plan:
    """Return the plan for a policy's sampler and a network's type: what it can solve and settle.

    Args:
        policy: the policy.
        sampler: whose chunks are certified.
        dtype: of the network.
        solves: see :class:`Plan`.
        batch: rows that are solved together.
        solvers: steps by name; None for all that the policy has.
    """
    head = policy.config.head
    headed: tuple[str, ...] = WITH_HEAD if head is not None and head.sampler == sampler else ()
    if policy.head is not None and not policy.head.adds_to_base:
        headed = tuple(name for name in headed if name != "adaptive")
    least = finest(dtype)
    tolerances = TOLERANCES if not least else (4 * least, least)
    named = (*WITHOUT_HEAD, *headed) if solvers is None else tuple(solvers)
    for name in named:
        kind = STEPS.find(name)
        if not kind.limits or kind.usual.safety != SAFETY:
            raise PcmError(f"solvers: {name} has no certificate of its own to calibrate")
    return Plan(sampler, named, tolerances, solves, batch)


def solver_of(
    policy: DiffusionPolicy, method: str, sampler: SamplerConfig, **settings: Any
) -> Solver:
    """Return a policy's solver of one sampler, whatever it or its head usually samples with."""
    named: Mapping[str, Any] = {name: getattr(sampler, own) for name, own in SAMPLER.items()}
    return policy.solver({"method": method, **named, **settings})


def scores_of(
    policy: DiffusionPolicy, plan: Plan, obs: Tensor, noise: Noise, number: int
) -> list[float]:
    """Return the scores of a batch of rows.

    Args:
        policy: the policy, with its runtime.
        plan: what is tried.
        obs: ``(B, To, Do)`` raw observations.
        noise: of the same rows.
        number: of the batch.

    Raises:
        PcmError: a row has no true certificate with any factor.
    """
    exact = policy.solve(obs, solver_of(policy, "sequential", plan.sampler), noise).sample
    scores = torch.full((len(obs),), LADDER[0], dtype=torch.float64)
    for method, error in plan.of_batch(number):
        open_rows = torch.arange(len(obs))
        for factor in LADDER:
            solver = solver_of(policy, method, plan.sampler, tolerance=error, safety=factor)
            rows = open_rows.to(obs.device)
            found = policy.solve(obs[rows], solver, noise.pick(open_rows))
            off = (found.sample - exact[rows]).abs().amax(dim=(1, 2))
            false = (found.certified & ~(off <= error)).cpu()
            scores[open_rows[~false]] = scores[open_rows[~false]].clamp(min=factor)
            open_rows = open_rows[false]
            if not len(open_rows):
                break
        else:
            raise PcmError(
                f"{solver.label}: {len(open_rows)} rows have no true certificate with a factor up "
                f"to {LADDER[-1]:g}: use fixed rounds, or solver=sequential"
            )
    return scores.tolist()


def scored(
    policy: DiffusionPolicy,
    plan: Plan,
    obs: Tensor,
    rows: int,
    seed: int,
    done: Sequence[float] = (),
) -> Iterator[list[float]]:
    """Yield the scores so far after every batch of rows.

    Row ``i`` has observation ``i mod n`` and noise of its own. The observations are shuffled, so
    that a batch is no piece of an episode.

    Args:
        policy: the policy, with its runtime.
        plan: what is tried.
        obs: ``(n, To, Do)`` raw observations.
        rows: how many rows there are in all.
        seed: of the noise; row ``i`` has ``seed + i``.
        done: scores of the first batches, from a run that was cut off.
    """
    order = np.random.default_rng(seed).permutation(len(obs))
    scores = list(done)
    sequential = solver_of(policy, "sequential", plan.sampler)
    for start in range(len(scores), rows, plan.batch):
        count = min(plan.batch, rows - start)
        picked = torch.from_numpy(order[np.arange(start, start + count) % len(obs)])
        some = obs[picked].to(policy.device, policy.dtype)
        noise = paired_noise(policy, sequential, count, seed + start)
        scores += scores_of(policy, plan, some, noise, start // plan.batch)
        yield scores
