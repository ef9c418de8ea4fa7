"""Every GPU figure by one command on a bare machine: torch, numpy, safetensors, this checkout.

    python benchmarks/gpu.py [--solves 10000] [--precision tf32] [--output FILE.json]
    python benchmarks/gpu.py --small            # a tiny form on the CPU, in seconds

U-Net of 65 M parameters (256-512-1024), random weights, which change no time but the number of
adaptive rounds. All solvers run in CUDA graphs at the same precision; ``eager`` rows are the loop
as published policies run it. Percentiles of end-to-end calls, see ``gpu_sides.py``; the solvers
take turns call by call. The file is written after every figure, so that a run that is cut off
leaves what it had. Figures that need CUDA are listed under ``missing`` where there is none.
"""

# ruff: noqa: E402  a bare machine has not installed the package: the path comes first
import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import torch
from compare_floor import ceilings, copy_bandwidth, floor, network_cost, peak_memory
from compare_policies import identity
from gpu_sides import Call, EagerLoop, Solve, build, worst_rounds

from pcm_policy.checkpoint import to_json, write_text
from pcm_policy.deadline import synchronize
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.solve import SolverConfig
from pcm_policy.statistics import percentiles

DDPM = SamplerConfig("ddpm", 100)
DDIM = SamplerConfig("ddim", 16)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
WARMUP, ERROR = 10, 1e-3


def solvers(picard_rounds: int) -> dict[str, SolverConfig]:
    """Return the solvers by name; a new one is one line."""
    return {
        "ddpm-100": SolverConfig("sequential", DDPM),
        "ddim-10": SolverConfig("sequential", SamplerConfig("ddim", 10)),
        "ddim-16": SolverConfig("sequential", DDIM),
        "picard exact ddpm-100": SolverConfig("picard", DDPM, rounds=picard_rounds),
        "pcm 2 ddim-16": SolverConfig("pcm", DDIM, rounds=2),
    }


def time_turns(
    calls: Mapping[str, Call], obs: torch.Tensor, count: int, seconds: float
) -> dict[str, list[float]]:
    """Time end-to-end calls that take turns.

    Args:
        calls: by name.
        obs: ``(n, B, To, Do)`` on the host, pinned on CUDA.
        count: timed calls each.
        seconds: no turn starts after this long.

    Returns:
        Milliseconds of every call; its end is the chunk's arrival on the host.
    """
    spent: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for turn in range(-min(WARMUP, count), count):
        if turn > 2 and time.perf_counter() > end:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call(obs[turn % len(obs)])
            if turn >= 0:
                spent[name].append((time.perf_counter() - start) * 1e3)
    return spent


def figures(args: argparse.Namespace, report: dict[str, Any]) -> None:
    """Fill the report and write it after every figure."""
    device = torch.device("cuda" if torch.cuda.is_available() and not args.small else "cpu")
    cuda = device.type == "cuda"
    mode = "graph" if cuda else "eager"
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    report |= identity(device) | {"precision": args.precision, "device": str(device)}
    report["commit"] = args.commit or report["commit"]
    policy = build((16, 32) if args.small else (256, 512, 1024), device)
    size = sum(p.numel() for p in policy.network.parameters())
    report |= {"parameters": size, "weights": "random", "rows": [], "throughput": []}
    limits = ceilings(device, torch.float32, small=args.small)
    report["ceilings"] = asdict(limits)
    rounds = args.picard_rounds or worst_rounds(policy, DDPM, ERROR, 2 if args.small else 16)
    chosen = {k: v for k, v in solvers(rounds).items() if not args.only or k in args.only}
    names = [*chosen, *(f"batch {b}" for b in BATCHES)]
    report["missing"] = [] if cuda else [f"graph: {x}" for x in names] + ["CUDA memory"]
    obs = 2 * torch.rand(16, 1, 2, 20) - 1
    obs = obs.pin_memory() if cuda else obs
    sides = {}
    memory = {}
    for name, solver in chosen.items():
        made: list[Solve] = []
        memory[name] = peak_memory(
            lambda s=solver, m=made: m.append(Solve(policy, s, 1, cuda)) or m[0](obs[0]), device
        )
        sides[name] = made[0]
    loops = {x: EagerLoop(policy, s) for x, s in (("ddpm-100", DDPM), ("ddim-16", DDIM))}
    loops = {k: v for k, v in loops.items() if k in chosen}
    groups: list[tuple[str, str, Mapping[str, Call], int]] = [
        ("pcm_policy", mode, sides, args.solves),
        ("usual loop", "eager", loops, args.eager_solves),
    ]
    cost = network_cost(policy, 1)
    for package, kind, calls, count in groups:
        spent = time_turns(calls, obs, count, args.seconds)
        for name, ms in spent.items():
            row: dict[str, Any] = {"package": package, "solver": name, "mode": kind, "batch": 1}
            side = sides[name]
            row |= {"solves": len(ms), "rounds": side.rounds, "nfe": side.nfe}
            row |= {f"{k}_ms": v for k, v in percentiles(ms).items()}
            row["per_round_ms"] = row["p50_ms"] / side.rounds
            row |= check(side) if package == "pcm_policy" else {}
            row["memory_bytes"] = memory[name] if package == "pcm_policy" else None
            states = side.nfe / side.rounds
            near = cost["weight_bytes"] + states * cost["activation_bytes"]
            speed = copy_bandwidth(device, int(near), 0.1)
            count_all = cost["operations"] * side.nfe
            row |= floor(cost, limits, speed, side.rounds, side.nfe, count_all)
            row["floor_per_round_ms"] = row["floor_ms"] / side.rounds
            row["times_floor"] = row["p50_ms"] / row["floor_ms"]
            report["rows"].append(row)
            say(row)
        write_text(Path(args.output), to_json(report))
    del sides, calls, groups
    if args.small:
        chosen = {k: v for k, v in chosen.items() if v.sampler == DDIM}
    for batch in BATCHES[:2] if args.small else BATCHES:
        report["throughput"] += throughput(policy, chosen, batch, args, cuda)
        write_text(Path(args.output), to_json(report))


def check(side: Solve) -> dict[str, float]:
    """Return the distance of a (captured) solve to the eager sequential chunk, same noise."""
    side.draw(torch.Generator(side.obs.device).manual_seed(1))
    off = side.replay() - side.sequential()
    return {"max_abs_error": float(off.abs().max()), "rmse": float(off.square().mean().sqrt())}


def throughput(
    policy: DiffusionPolicy,
    chosen: Mapping[str, SolverConfig],
    batch: int,
    args: argparse.Namespace,
    cuda: bool,
) -> list[dict[str, Any]]:
    """Measure chunks a second of all solvers at one batch size."""
    obs = 2 * torch.rand(4, batch, 2, 20) - 1
    obs = obs.pin_memory() if cuda else obs
    rows = []
    for name, solver in chosen.items():
        side = Solve(policy, solver, batch, cuda)
        ms = time_turns({name: side}, obs, args.throughput_solves, min(15.0, args.seconds))[name]
        row = {"solver": name, "mode": "graph" if cuda else "eager", "batch": batch}
        row |= {f"{k}_ms": v for k, v in percentiles(ms).items()}
        rows.append(row | {"chunks_per_second": 1e3 * batch / row["p50_ms"], "solves": len(ms)})
        del side
        if cuda:
            synchronize(policy.device)
            torch.cuda.empty_cache()
    return rows


def say(row: Mapping[str, Any]) -> None:
    """Print a row."""
    print(
        f"{row['package']:11} {row['solver']:22} {row['mode']:6} {row['rounds']:4} rounds "
        f"p50 {row['p50_ms']:9.3f} p99 {row['p99_ms']:9.3f} ms  x floor {row['times_floor']:.1f}",
        flush=True,
    )


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny network, CPU, seconds")
    parser.add_argument("--solves", type=int, help="graph rows (10000)")
    parser.add_argument("--eager-solves", type=int, help="eager rows (300)")
    parser.add_argument("--throughput-solves", type=int, help="a batch size (100)")
    parser.add_argument("--seconds", type=float, default=1800.0, help="most time for a group")
    parser.add_argument("--precision", choices=("float32", "tf32"), default="tf32")
    parser.add_argument("--picard-rounds", type=int, help="default: what the weights need")
    parser.add_argument("--only", nargs="+", help="names of solvers")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--commit", help="where the machine has no git")
    parser.add_argument("--output", default="benchmarks/results/compare/gpu.json")
    args = parser.parse_args(words)
    usual = (3, 1, 2) if args.small else (10_000, 300, 100)
    for name, value in zip(("solves", "eager_solves", "throughput_solves"), usual, strict=True):
        setattr(args, name, getattr(args, name) or value)
    report: dict[str, Any] = {}
    figures(args, report)
    return report


if __name__ == "__main__":
    main()
