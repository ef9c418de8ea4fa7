"""Compare our solvers with diffusers and LeRobot on the same weights.

    python benchmarks/compare.py run [--policies ...] [--output FILE.json]
    python benchmarks/compare.py picture FILE.json [PICTURE.png]

Timing: one call from raw observations to the normalised chunk, its noise drawn inside; warm-up
first, device synchronised on both sides, all sides of a sampler taking turns call by call. Errors
are largest absolute and root mean square differences to the sequential chunk of the row's
reference sampler, same noise. LeRobot's rows need ``PCM_LEROBOT_PYTHON``
(``benchmarks/lerobot_env.py``) and are left out unless its chunks equal ours.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from compare_floor import Ceilings, ceilings, copy_bandwidth, floor, network_cost, operations
from compare_floor import peak_memory as peak
from compare_picture import print_table, write_picture
from compare_policies import identity, load
from compare_sides import Side, common_sampler, diffusers_sides, head_sides, our_sides, ours
from torch import Tensor

from pcm_policy.checkpoint import to_json, write_text
from pcm_policy.deadline import synchronize
from pcm_policy.errors import PcmError
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig
from pcm_policy.statistics import percentiles

SAMPLERS = ("ddpm-100", "ddim-16", "ddim-32")
POLICIES = ("released/pusht", "unet-5m", "unet-65m")
WARMUP, FEWEST, CHECKED = 2, 5, 3


def batches(observations: Tensor, batch: int) -> Tensor:
    """Cut ``(n, To, Do)`` observations into ``(n // B, B, To, Do)``, at most 16 of them."""
    count = min(16, len(observations) // batch)
    if count == 0:
        raise PcmError(f"batch={batch}: the policy has {len(observations)} observations")
    return observations[: count * batch].unflatten(0, (count, batch))


def take_turns(
    sides: Sequence[Side], obs: Tensor, calls: int, seconds: float
) -> list[list[tuple[float, int, int]]]:
    """Time all sides, one call of each after the other.

    Args:
        sides: what is timed.
        obs: ``(n, B, To, Do)``; call ``k`` of every side takes row ``k % n`` and seed ``k``.
        calls: the most calls a side, the warm-up not counted.
        seconds: no further turn starts after this long, but each side has five calls at least.

    Returns:
        For every side its calls' milliseconds, rounds and NFE.
    """
    device = obs.device
    spent: list[list[tuple[float, int, int]]] = [[] for _ in sides]
    end = time.perf_counter() + seconds
    for call in range(-WARMUP, calls):
        if call >= FEWEST and time.perf_counter() > end:
            break
        for found, side in zip(spent, sides, strict=True):
            synchronize(device)
            start = time.perf_counter()
            solved = side.run(obs[call % len(obs)], call % 2**31)
            synchronize(device)
            ms = (time.perf_counter() - start) * 1e3
            if call >= 0:
                found.append((ms if solved.ms is None else solved.ms, solved.rounds, solved.nfe))
    return spent


@torch.inference_mode()
def errors(policy: DiffusionPolicy, side: Side, obs: Tensor) -> dict[str, float]:
    """Return the row's distance to its reference's sequential chunk, in normalised units."""
    exact = ours(policy, SolverConfig("sequential", side.reference))
    off = []
    for seed in range(min(CHECKED, len(obs))):
        found, target = (s.run(obs[seed], seed).sample.cpu() for s in (side, exact))
        off.append(found - target)
    difference = torch.cat(off)
    return {
        "max_abs_error": float(difference.abs().max()),
        "rmse": float(difference.square().mean().sqrt()),
    }


def sides_of(
    policy: DiffusionPolicy, name: str, obs: Tensor, stack: ExitStack, refused: list[dict[str, Any]]
) -> Iterator[Side]:
    """Yield all sides of one group: a sampler by name, or ``head`` for the head's own."""
    if name == "head":
        yield from head_sides(policy)
        return
    kind, steps = name.split("-")
    sampler: SamplerConfig = common_sampler(kind, int(steps))
    yield from our_sides(policy, sampler)
    yield from diffusers_sides(policy, sampler)
    import lerobot_side

    if lerobot_side.python() is None:
        refused.append({"row": f"lerobot {name}", "reason": "PCM_LEROBOT_PYTHON is not set"})
        return
    try:
        seeds = list(range(min(CHECKED, len(obs))))
        peer = stack.enter_context(lerobot_side.LeRobot(policy, sampler, obs, seeds))
        yield peer.side()
    except PcmError as error:
        refused.append({"row": f"lerobot {name}", "reason": str(error)})


def measure(
    policy: DiffusionPolicy, name: str, obs: Tensor, limits: Ceilings, args: argparse.Namespace
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Measure one group of rows, and return it with the rows that were refused."""
    batch, device = obs.shape[1], obs.device
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    cost = network_cost(policy, batch)
    with ExitStack() as stack:
        sides = list(sides_of(policy, name, obs, stack, refused))
        timed = take_turns(sides, obs, args.calls, args.seconds)
        for side, calls in zip(sides, timed, strict=True):
            ms, rounds, nfe = (list(x) for x in zip(*calls, strict=True))
            mean_rounds, mean_nfe = sum(rounds) / len(rounds), sum(nfe) / len(nfe)
            count = cost["operations"] * mean_nfe
            memory = None
            if side.local:
                # counted on one call; adaptive rows are scaled to the mean of the timed ones
                one = side.run(obs[0], 0)
                count = operations(lambda s=side: s.run(obs[0], 0)) * mean_nfe / one.nfe
                memory = peak(lambda s=side: s.run(obs[0], 0), device)
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
                    **errors(policy, side, obs),
                    **bound,
                    "times_floor": times["p50_ms"] / bound["floor_ms"],
                    "near_bandwidth": near,
                    "memory_bytes": memory,
                    "reference": asdict(side.reference),
                    "note": side.note,
                }
            )
    return rows, refused


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Add every row's speed relative to sequential DDPM-100, ours and its own package's."""
    for row in rows:
        for key, package in (("ours", "pcm_policy"), ("own", row["package"])):
            base = [
                r["p50_ms"]
                for r in rows
                if (r["package"], r["solver"].split()[-1]) == (package, "ddpm-100")
                and (r["policy"], r["batch"], r["method"])
                == (row["policy"], row["batch"], "sequential")
            ]
            row[f"speedup_over_{key}_ddpm"] = base[0] / row["p50_ms"] if base else None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the comparison and write its file after every group."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    report: dict[str, Any] = identity(device) | {"dtype": "float32", "device": str(device)}
    limits = ceilings(device, torch.float32, small=args.small)
    report |= {"ceilings": asdict(limits), "warmup": WARMUP, "seconds": args.seconds}
    report |= {"policies": {}, "rows": [], "refused": []}
    for name in args.policies:
        policy, observations, weights = load(name, device)
        size = sum(p.numel() for p in policy.network.parameters())
        report["policies"][name] = {"weights": weights, "parameters": size}
        groups = [*args.samplers, *(["head"] if policy.config.head is not None else [])]
        for batch in args.batches:
            obs = batches(observations, batch)
            for group in groups:
                rows, refused = measure(policy, group, obs, limits, args)
                place = {"policy": name, "weights": weights}
                report["rows"] += [place | row for row in rows]
                report["refused"] += [place | {"batch": batch} | r for r in refused]
                add_ratios(report["rows"])
                write_text(Path(args.output), to_json(report))
                print_table(report["rows"][-len(rows) :])
    return report


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    result = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = result.add_subparsers(dest="what", required=True)
    take = commands.add_parser("run", help="measure and write a JSON file")
    take.add_argument("--policies", nargs="+", default=POLICIES, help="folders or unet-5m, ...")
    take.add_argument("--samplers", nargs="+", default=SAMPLERS)
    take.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    take.add_argument("--calls", type=int, default=200, help="most calls a side")
    take.add_argument("--seconds", type=float, default=60.0, help="time for a group of rows")
    take.add_argument("--threads", type=int, default=torch.get_num_threads())
    take.add_argument("--device", default="cpu")
    take.add_argument("--small", action="store_true", help="rough ceilings, for tests")
    take.add_argument("--output", default="benchmarks/results/compare/compare.json")
    draw = commands.add_parser("picture", help="draw a picture from a JSON file")
    draw.add_argument("file", type=Path)
    draw.add_argument("picture", type=Path, nargs="?")
    return result


def main(words: Sequence[str] | None = None) -> None:
    """Run the command line."""
    args = parser().parse_args(words)
    if args.what == "picture":
        write_picture(args.file, args.picture or args.file.with_suffix(".png"))
    else:
        run(args)


if __name__ == "__main__":
    main()
