"""Rows of the comparison: one group of sides checked, timed together and put beside its floor."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from torch import Tensor

from benchmarks.compare.diffusers import diffusers_sides
from benchmarks.compare.floor import Ceilings, copy_bandwidth, floor, network_cost
from benchmarks.compare.sides import Side, head_sides, our_sides
from benchmarks.compare.timing import Checked, Exact, check, timed_turns
from benchmarks.lerobot.side import lerobot_side, python
from pcm_policy.adopt.lerobot_peer import LeRobotPeer
from pcm_policy.adopt.lerobot_sampling import common_sampler
from pcm_policy.errors import PcmError
from pcm_policy.measure.statistics import percentiles
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.sampling.samplers import SamplerConfig


def sides_of(
    policy: DiffusionPolicy,
    name: str,
    obs: Tensor,
    runtimes: Sequence[Runtime],
    calibration: Tensor | None,
    stack: ExitStack,
    args: argparse.Namespace,
) -> Iterator[Side]:
    """Yield all sides of one group: a sampler by name, or ``head`` for the head's own.

    Raises:
        PcmError: LeRobot's side, the last one, cannot run or differs from ours.
    """
    if name == "head":
        yield from head_sides(policy, runtimes)
        return
    kind, steps = name.split("-")
    sampler: SamplerConfig = common_sampler(kind, int(steps))
    yield from our_sides(policy, sampler, runtimes, calibration)
    yield from diffusers_sides(policy, sampler)
    seeds = list(range(max(2, args.checked)))  # those of the untimed calls
    yield lerobot_side(stack.enter_context(LeRobotPeer(python(), policy, sampler, obs, seeds)))


def checked_sides(
    sides: Iterator[Side], name: str, obs: Tensor, calls: int
) -> tuple[list[Checked], list[dict[str, Any]]]:
    """Make every side's untimed calls, and set aside the sides that refuse to run, with why."""
    found: list[Checked] = []
    refused: list[dict[str, Any]] = []
    while True:
        row = f"lerobot {name}"
        try:
            side = next(sides, None)
            if side is None:
                return found, refused
            row = f"{side.package} {side.label} {side.mode}"
            found.append(check(side, obs, calls))
        except PcmError as error:
            refused.append({"row": row, "reason": str(error)})


def measure(
    policy: DiffusionPolicy,
    name: str,
    obs: Tensor,
    limits: Ceilings,
    args: argparse.Namespace,
    calibration: Tensor | None = None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure one group of rows, and return it with the rows that were refused."""
    batch, device = obs.shape[1], obs.device
    tf32 = args.precision == "tf32"
    modes = [mode for mode in args.modes if mode != "eager"]
    runtimes = [Runtime(policy, RuntimeConfig(mode, tf32=tf32)) for mode in modes]
    cost, exact = network_cost(policy, batch), Exact(policy, obs)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sides = sides_of(policy, name, obs, runtimes, calibration, stack, args)
        checked, refused = checked_sides(sides, name, obs, args.checked)
        timed = timed_turns([c.side for c in checked], obs, args.calls, args.seconds, args.least)
        for found, calls in zip(checked, timed, strict=True):
            side = found.side
            ms, rounds, nfe = (list(x) for x in zip(*calls, strict=True))
            mean_rounds, mean_nfe = sum(rounds) / len(rounds), sum(nfe) / len(nfe)
            count = cost["operations"] * mean_nfe
            if found.operations is not None:
                # counted on one call; adaptive rows are scaled to the mean of the timed ones
                count = found.operations * mean_nfe / found.nfe[0]
            round_bytes = cost["weight_bytes"] + cost["activation_bytes"] * mean_nfe / mean_rounds
            near = copy_bandwidth(device, int(round_bytes), 0.05)
            bound = floor(cost, limits, near, mean_rounds, mean_nfe, count)
            times = {f"{k}_ms": v for k, v in percentiles(ms).items()}
            rows.append(
                {
                    "package": side.package,
                    "method": side.method,
                    "solver": side.label,
                    "group": name,
                    "mode": side.mode,
                    "batch": batch,
                    "calls": len(ms),
                    "rounds": mean_rounds,
                    "worst_rounds": max(rounds),
                    "nfe": mean_nfe,
                    **times,
                    "p99_over_p50": times["p99_ms"] / times["p50_ms"],
                    **exact.errors(found),
                    **bound,
                    "times_floor": times["p50_ms"] / bound["floor_ms"],
                    "near_bandwidth": near,
                    "memory_bytes": found.memory,
                    "reference": asdict(side.reference),
                    "note": side.note,
                }
            )
    return rows, refused
