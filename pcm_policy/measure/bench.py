"""Honest timing and exactness of every solver on the same weights.

Latency is one prediction at batch 1; the solvers take turns (:mod:`pcm_policy.measure.timing`).
Errors are against the sequential chunk of the same sampler, same observation, same noise. LeRobot's
rows (:mod:`pcm_policy.measure.lerobot`) take their turns in the same loop.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import paired_noise, solved
from pcm_policy.measure.rounds import Trace, count_rounds
from pcm_policy.measure.rows import (
    OURS,
    Row,
    certificate,
    default_rows,
    sequential,
    settings,
)
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.timing import time_call
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.timing import Progress, Side, no_progress, take_turns
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.step import needs


@dataclass(frozen=True)
class Errors:
    """What a row's chunks are, over the observations.

    Attributes:
        rounds: mean network rounds.
        worst_rounds: most of them.
        nfe: mean evaluated states a chunk.
        max_abs_error: largest distance to the reference's chunk, actions in [-1, 1].
        mean_abs_error: mean of the same.
        rmse: mean over observations of the root mean square over a chunk.
        version: of another package.
    """

    rounds: float
    worst_rounds: int
    nfe: float
    max_abs_error: float
    mean_abs_error: float
    rmse: float
    version: str = ""


@dataclass(frozen=True)
class Bench:
    """A benchmark: what ``bench.json``, its table and its picture show.

    Attributes:
        errors: of every row.
        times_ms: p50, p95, p99, max and mean of every row.
        traces: errors round by round, of the rows that stop by a tolerance.
        facts: error, observations, calls, batch and the conditions, plain data for JSON.
        left_out: a line for each row that cannot be.
        encode_ms: images to features, before every solve; None without cameras.
    """

    errors: dict[Row, Errors]
    times_ms: dict[Row, dict[str, float]]
    traces: list[Trace]
    facts: dict[str, Any]
    left_out: list[str]
    encode_ms: dict[str, float] | None = None

    @property
    def rows(self) -> list[Row]:
        """All rows, another package's after our sequential row of the same sampler."""
        others = {row.reference: row for row in self.errors if row.package != OURS}
        found = []
        for row in (row for row in self.errors if row.package == OURS):
            found.append(row)
            if row == sequential(row.reference) and row.reference in others:
                found.append(others.pop(row.reference))
        return found

    @property
    def slowest(self) -> Row:
        """The sequential sampler that all speeds are also compared with."""
        return next(iter(self.errors))

    def speedup(self, row: Row, over: Row) -> float | None:
        """Return how many times faster than another row one is, by p50; None without that one."""
        if over not in self.times_ms:
            return None
        return self.times_ms[over]["p50"] / self.times_ms[row]["p50"]

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "rows": [self._row(row) for row in self.rows],
            "left_out": self.left_out,
            "rounds_to_error": [trace.to_json() for trace in self.traces],
            **({} if self.encode_ms is None else {"encode_ms": self.encode_ms}),
            **self.facts,
        }

    def _row(self, row: Row) -> dict[str, Any]:
        over_lerobot = self.speedup(row, sequential(row.reference, "lerobot"))
        found = asdict(self.errors[row])
        return {
            "package": row.package,
            **({"version": found.pop("version")} if found["version"] else {}),
            "solver": row.solver.label,
            "settings": settings(row.solver),
            "reference": row.reference.label,
            **{name: value for name, value in found.items() if name != "version"},
            **{f"{name}_ms": ms for name, ms in self.times_ms[row].items()},
            "speedup": self.speedup(row, sequential(row.reference)),
            "speedup_over_slowest": self.speedup(row, self.slowest),
            **({} if over_lerobot is None else {"speedup_over_lerobot": over_lerobot}),
        }


def prediction_sides(
    policy: DiffusionPolicy,
    solvers: Sequence[Solver],
    observations: Sequence[Any] | NDArray[np.float32],
) -> list[Side]:
    """Return a side for every solver: one ``predict`` at batch 1, noise named by the call.

    Args:
        policy: the policy.
        solvers: what is timed.
        observations: ``n`` of them, each as ``predict`` takes one, used in turn; or tensors
            ``(To, Do)``, whose images are encoded already: the solve alone is timed then.
    """

    def side(solver: Solver) -> Side:
        def call(number: int) -> None:
            obs = observations[number % len(observations)]
            noise = paired_noise(policy, solver, 1, number)
            if isinstance(obs, Tensor):  # encoded already
                policy.solve(obs[None], solver, noise)
            else:
                policy.predict(obs, solver=solver, noise=noise)

        return call

    return [side(solver) for solver in solvers]


def time_predictions(
    policy: DiffusionPolicy,
    solvers: Sequence[Solver],
    observations: Sequence[Any] | NDArray[np.float32],
    calls: int,
    progress: Progress = no_progress,
    others: Sequence[Side] = (),
) -> list[dict[str, float]]:
    """Time ``predict`` at batch 1 for several solvers that take turns.

    Args:
        policy: the policy.
        solvers: what is timed.
        observations: as :func:`prediction_sides` takes them.
        calls: timed calls per solver, after a warm-up.
        progress: shows how far it has come.
        others: further sides, which take their turns after the solvers.

    Returns:
        p50, p95, p99, max and mean in milliseconds, a dictionary a solver and then one a further
        side.

    Raises:
        PcmError: no call was asked for.
    """
    sides = [*prediction_sides(policy, solvers, observations), *others]
    spent = take_turns(sides, calls, device=policy.device, progress=progress)
    return [percentiles(times) for times in spent]


def time_encoding(
    policy: DiffusionPolicy, observations: Sequence[Any], calls: int
) -> dict[str, float]:
    """Time ``observe`` at batch 1: checks, and images to features.

    Args:
        policy: the policy.
        observations: each as ``predict`` takes one, used in turn.
        calls: timed calls, after a warm-up.

    Returns:
        p50, p95, p99, max and mean in milliseconds.
    """
    return time_call(
        lambda call: policy.observe(observations[call % len(observations)]), calls, policy.device
    )


def row_errors(policy: DiffusionPolicy, row: Row, obs: Tensor, exact: Tensor, seed: int) -> Errors:
    """Return rounds and errors of a row over observations ``(n, To, Do)``.

    Rows that may stop early are solved one observation at a time, as they are in use.

    Args:
        policy: the policy.
        row: what is looked at.
        obs: ``(n, To, Do)`` raw observations.
        exact: ``(n, T, Da)`` sequential chunks of the row's reference, same noise.
        seed: of the noise.
    """
    stops = {"tolerance", "settle"} & set(settings(row.solver))
    if stops:
        found = [solved(policy, row.solver, obs[i : i + 1], seed + i) for i in range(len(obs))]
    else:
        found = [solved(policy, row.solver, obs, seed)]
    off = (torch.cat([f.sample for f in found]) - exact).abs()
    rounds = [f.rounds for f in found]
    return Errors(
        float(np.mean(rounds)),
        max(rounds),
        float(np.mean([f.nfe for f in found])),
        float(off.max()),
        float(off.mean()),
        float(off.square().mean(dim=(1, 2)).sqrt().mean()),
    )


def run_bench(
    policy: DiffusionPolicy,
    observations: Tensor,
    *,
    observations_used: int = 64,
    calls: int = 100,
    error: float = 1e-3,
    seed: int = 0,
    progress: Progress = no_progress,
    methods: Sequence[str] | None = None,
    lerobot: str | None = None,
    sights: Sequence[Any] = (),
) -> Bench:
    """Compare all solvers on one policy.

    Args:
        policy: the policy, with or without a head.
        observations: ``(n, To, Do)`` raw held-out observations.
        observations_used: how many of them errors and rounds are taken over.
        calls: timed calls per solver.
        error: tolerance of the adaptive rows, and the error whose rounds are counted.
        seed: seed of the noise.
        progress: shows how far it has come.
        methods: rows of these methods alone, beside the sequential ones; None for all.
        lerobot: Python of LeRobot's environment; its own loops on the same weights are rows then.
        sights: of a policy with cameras: observations with images. Encoding them is timed apart
            from the solves.

    Raises:
        PcmError: an unknown method, no call, or LeRobot is not there or its chunks are not ours.
    """
    obs = observations[torch.linspace(0, len(observations) - 1, observations_used).long()]
    obs = obs.to(policy.device, policy.dtype)
    rows = default_rows(policy, error, methods)
    sloped = [row.reference for row in rows if "jacobian" in needs(row.solver.step)]
    for sampler in dict.fromkeys(sloped):
        policy.calibrate(observations[:128], sampler, seed + 1_000_000)
    errors = errors_of(policy, rows, obs, seed, progress)
    left_out: list[str] = []
    with ExitStack() as stack:
        others: dict[Row, tuple[Errors, Side]] = {}
        if lerobot is not None:
            others, left_out = _lerobot(policy, rows, obs, lerobot, stack)
        frames = obs.float().cpu().numpy() if policy.vision is None else list(obs)
        solvers, sides = [row.solver for row in rows], [side for _, side in others.values()]
        timed = time_predictions(policy, solvers, frames, calls, progress, sides)
    errors |= {row: found for row, (found, _) in others.items()}
    facts: dict[str, Any] = {"error": error, "observations": len(obs), "calls": calls, "batch": 1}
    facts["certificates"] = {
        row.label: said for row in rows for said in certificate(policy, row.solver).values()
    }
    return Bench(
        errors,
        dict(zip(errors, timed, strict=True)),
        count_rounds(policy, obs, rows, error, seed, progress),
        facts | conditions(policy),
        left_out,
        time_encoding(policy, sights, calls) if sights else None,
    )


def errors_of(
    policy: DiffusionPolicy,
    rows: Sequence[Row],
    obs: Tensor,
    seed: int,
    progress: Progress = no_progress,
) -> dict[Row, Errors]:
    """Return rounds and errors of all rows over observations ``(n, To, Do)``, same noise."""
    exact = {
        sampler: solved(policy, sequential(sampler).solver, obs, seed).sample
        for sampler in dict.fromkeys(row.reference for row in rows)
    }
    return {
        row: row_errors(policy, row, obs, exact[row.reference], seed)
        for row in progress(rows, "errors")
    }


def _lerobot(
    policy: DiffusionPolicy, rows: Sequence[Row], obs: Tensor, python: str, stack: ExitStack
) -> tuple[dict[Row, tuple[Errors, Side]], list[str]]:
    """Return LeRobot's rows, and a line for each sampler that it has not."""
    from pcm_policy.measure.lerobot import open_peers, peer_errors  # needs safetensors

    samplers = list(dict.fromkeys(row.reference for row in rows))
    peers, left_out = open_peers(python, policy, samplers, obs, stack)
    found: dict[Row, tuple[Errors, Side]] = {
        sequential(peer.sampler, "lerobot"): (Errors(**peer_errors(peer)), peer.time)
        for peer in peers
    }
    return found, left_out
