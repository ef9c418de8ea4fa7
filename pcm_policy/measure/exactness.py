"""How far a policy's chunks are from its base sampler's: what the card of a distilled policy says.

Errors are taken over observations with paired noise: root mean square over a chunk in normalised
action units, mean and largest in the unit of the actions.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.measure.tables import markdown
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import Noise, episode_noise
from pcm_policy.solvers import SolveResult
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.stops import Settle

ROUNDS = (1, 2, 3, 4)
TOLERANCES = (1e-2, 1e-3)
ON_AVERAGE = (1.5, 2.0)
"""Mean rounds for which a card says where to settle."""
HALVINGS = 12
SOLVED_ALONE = 64
"""Observations whose rounds until certified are counted: every one is a solve of its own."""


@dataclass(frozen=True)
class ChunkError:
    """Distance of chunks to the base's.

    Attributes:
        rmse: mean over observations of the root mean square over a chunk, normalised units.
        rmse_p95: its 95th percentile over observations.
        mean: mean absolute error, in the unit of the actions.
        largest: largest absolute error, in the unit of the actions.
    """

    rmse: float
    rmse_p95: float
    mean: float
    largest: float


@dataclass(frozen=True)
class Certification:
    """Rounds that a solve takes until it is certified, every observation alone.

    Attributes:
        solver: label of the solver.
        tolerance: certified error, in normalised units.
        rounds: mean number of rounds.
        worst_rounds: largest number of rounds.
        worst_error: largest true error of a certified chunk, normalised.
        coverage: share of chunks whose true error is within the tolerance: certificates are
            estimates (residual times safety factor) unless all states are proven.
    """

    solver: str
    tolerance: float
    rounds: float
    worst_rounds: int
    worst_error: float
    coverage: float


def paired_noise(policy: DiffusionPolicy, solver: Solver, count: int, seed: int = 0) -> Noise:
    """Return noise of ``count`` rows named ``seed, seed + 1, ...``, the same for every solver."""
    rows, shape = range(seed, seed + count), policy.config.chunk_shape
    return episode_noise(rows, [0] * count, shape, policy.sampler(solver.sampler).noise_steps)


def solved(policy: DiffusionPolicy, solver: Solver, obs: Tensor, seed: int = 0) -> SolveResult:
    """Solve all observations ``(n, To, Do)`` at once with paired noise."""
    return policy.solve(
        obs.to(policy.device, policy.dtype), solver, paired_noise(policy, solver, len(obs), seed)
    )


def chunk_error(found: SolveResult, exact: SolveResult) -> ChunkError:
    """Compare two solves of the same rows, both by a policy (with ``chunk``)."""
    assert found.chunk is not None
    assert exact.chunk is not None
    rmse = (found.sample - exact.sample).square().mean(dim=(1, 2)).sqrt()
    raw = (found.chunk - exact.chunk).abs()
    p95 = float(np.percentile(rmse.cpu().double().numpy(), 95))
    return ChunkError(float(rmse.mean()), p95, float(raw.mean()), float(raw.max()))


def certification(
    policy: DiffusionPolicy, solver: Solver, obs: Tensor, seed: int = 0
) -> Certification:
    """Solve every observation alone until it is certified.

    Args:
        policy: the policy.
        solver: with a tolerance and without a limit of rounds.
        obs: ``(n, To, Do)`` raw observations.
        seed: of the noise.
    """
    exact = solved(policy, Solver.of("sequential", solver.sampler), obs, seed).sample
    rounds, errors = [], []
    for i in range(len(obs)):
        found = solved(policy, solver, obs[i : i + 1], seed + i)
        assert bool(found.certified.all())
        rounds.append(found.rounds)
        errors.append(float((found.sample - exact[i : i + 1]).abs().max()))
    assert solver.tolerance is not None
    mean = float(np.mean(rounds))
    covered = float(np.mean(np.array(errors) <= solver.tolerance))
    return Certification(solver.label, solver.tolerance, mean, max(rounds), max(errors), covered)


def certified_solver(policy: DiffusionPolicy, tolerance: float) -> Solver:
    """Return the head's way to a certified chunk: adaptive where the head can, else a step."""
    assert policy.config.head is not None
    assert policy.head is not None
    if policy.head.adds_to_base:
        return policy.solver({"method": "adaptive", "tolerance": tolerance})
    shares = [1.0] * policy.config.head.rounds
    return policy.solver({"method": "pcm", "tolerance": tolerance, "shares": shares})


def settle_level(policy: DiffusionPolicy, obs: Tensor, rounds: float, seed: int = 0) -> float:
    """Return the least ``solver.settle`` with which PCM takes ``rounds`` rounds on average.

    Args:
        policy: with a PCM head.
        obs: ``(n, To, Do)`` raw observations.
        rounds: wanted mean over them, not exceeded, between 1 and :class:`Settle`'s most.
        seed: of the noise.

    Raises:
        PcmError: a mean outside that.
    """
    most = Settle().rounds
    if most is None or not 1 < rounds < most:
        raise PcmError(f"rounds={rounds:g} on average: give more than 1 and less than {most}")
    low, high = -10.0, 2.0  # of the logarithm: as good as never, and always
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        found = solved(policy, settling(policy, math.exp(middle)), obs, seed).row_rounds
        assert found is not None
        if float(found.double().mean()) > rounds:
            low = middle
        else:
            high = middle
    return math.exp(high)


def settling(policy: DiffusionPolicy, level: float) -> Solver:
    """Return the head's solver that stops a row when its chunk moves by less than ``level``."""
    return policy.solver({"method": "pcm", "settle": float(f"{level:.3g}")})


def exactness_report(policy: DiffusionPolicy, obs: Tensor, base: DiffusionPolicy) -> str:
    """Return the card's tables in Markdown.

    Args:
        policy: with a PCM head, or a consistency model.
        obs: ``(n, To, Do)`` raw held-out observations.
        base: the policy whose chunks are wanted; it is moved to the policy's device.
    """
    base.to(policy.device)
    head = policy.config.head
    reference = base.config.sampler if head is None else head.sampler
    exact = solved(base, Solver.of("sequential", reference), obs)
    solvers = [
        policy.solver({"method": "sequential", "steps": r} if head is None else {"rounds": r})
        for r in ROUNDS
    ]
    if head is not None:
        some = obs[:: max(1, len(obs) // 128)]
        solvers += [settling(policy, settle_level(policy, some, mean)) for mean in ON_AVERAGE]
    rows = []
    for solver in solvers:
        found = solved(policy, solver, obs)
        error, rounds = chunk_error(found, exact), found.row_rounds
        taken = float(found.rounds if rounds is None else rounds.double().mean())
        numbers = (error.rmse, error.rmse_p95, error.mean, error.largest)
        rows.append([solver.label, f"{taken:.3g}", *(f"{x:.3g}" for x in numbers)])
    names = ["solver", "rounds", "RMSE, normalised", "its p95", "mean error", "largest error"]
    text = (
        f"Action error to the sequential {reference.label} chunk over {len(obs)} "
        "held-out observations, same noise; mean and largest in the unit of the actions:\n\n"
        f"{markdown(names, rows)}\n"
    )
    if head is None:
        return text
    alone = obs[torch.linspace(0, len(obs) - 1, min(SOLVED_ALONE, len(obs))).long()]
    rows = []
    for tolerance in TOLERANCES:
        plain = policy.cautious(Solver.of("picard", reference, tolerance=tolerance))
        for solver in (certified_solver(policy, tolerance), plain):
            proven = certification(policy, solver, alone)
            counted = f"{proven.rounds:.1f}", str(proven.worst_rounds)
            checked = f"{proven.worst_error:.1e}", f"{proven.coverage:.0%}"
            rows.append([proven.solver, *counted, *checked, policy.trust(solver)])
    names = ["until certified", "rounds", "most", "largest true error, normalised", "within"]
    names.append("certificate")
    return f"{text}\nEach of {len(alone)} of them alone:\n\n{markdown(names, rows)}\n"
