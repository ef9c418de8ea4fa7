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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from compare_diffusers import diffusers_sides
from compare_floor import Ceilings, ceilings, copy_bandwidth, floor, network_cost
from compare_floor import peak_memory as peak
from compare_picture import print_table, write_picture
from compare_policies import identity, load
from compare_sides import Side, common_sampler, head_sides, our_sides
from compare_timing import WARMUP, batches, counted, errors, take_turns
from torch import Tensor

from pcm_policy.checkpoint import to_json, write_text
from pcm_policy.errors import PcmError
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.samplers import SamplerConfig
from pcm_policy.statistics import percentiles

SAMPLERS = ("ddpm-100", "ddim-16", "ddim-32")
POLICIES = ("released/pusht", "unet-5m", "unet-65m")


def sides_of(
    policy: DiffusionPolicy,
    name: str,
    obs: Tensor,
    checked: int,
    calibration: Tensor | None,
    stack: ExitStack,
    refused: list[dict[str, Any]],
) -> Iterator[Side]:
    """Yield all sides of one group: a sampler by name, or ``head`` for the head's own."""
    if name == "head":
        yield from head_sides(policy, obs.shape[1])
        return
    kind, steps = name.split("-")
    sampler: SamplerConfig = common_sampler(kind, int(steps))
    yield from our_sides(policy, sampler, obs.shape[1], calibration)
    yield from diffusers_sides(policy, sampler)
    import lerobot_side

    if lerobot_side.python() is None:
        refused.append({"row": f"lerobot {name}", "reason": "PCM_LEROBOT_PYTHON is not set"})
        return
    try:
        seeds = list(range(min(checked, len(obs))))
        peer = stack.enter_context(lerobot_side.LeRobot(policy, sampler, obs, seeds))
        yield peer.side()
    except PcmError as error:
        refused.append({"row": f"lerobot {name}", "reason": str(error)})


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
    rows: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    cost = network_cost(policy, batch)
    with ExitStack() as stack:
        sides = list(sides_of(policy, name, obs, args.checked, calibration, stack, refused))
        timed = take_turns(sides, obs, args.calls, args.seconds, args.least)
        for side, calls in zip(sides, timed, strict=True):
            ms, rounds, nfe = (list(x) for x in zip(*calls, strict=True))
            mean_rounds, mean_nfe = sum(rounds) / len(rounds), sum(nfe) / len(nfe)
            count = cost["operations"] * mean_nfe
            memory = None
            if side.local:
                # counted on one call; adaptive rows are scaled to the mean of the timed ones
                once: list[tuple[float, int]] = []
                memory = peak(lambda s=side, o=once: o.append(counted(s, obs[0])), device)
                count = once[0][0] * mean_nfe / once[0][1]
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
                    **errors(policy, side, obs[: args.checked]),
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
    """Add every row's speed relative to sequential DDPM-100, ours and its own package's.

    Both run in the row's own mode: a graph is never compared with an eager loop.
    """
    for row in rows:
        for key, package in (("ours", "pcm_policy"), ("own", row["package"])):
            base = [
                r["p50_ms"]
                for r in rows
                if (r["package"], r["solver"].split()[-1]) == (package, "ddpm-100")
                and (r["policy"], r["batch"], r["mode"], r["method"])
                == (row["policy"], row["batch"], row["mode"], "sequential")
            ]
            row[f"speedup_over_{key}_ddpm"] = base[0] / row["p50_ms"] if base else None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the comparison and write its file after every group."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    report: dict[str, Any] = identity(device) | {"dtype": "float32", "device": str(device)}
    limits = ceilings(device, torch.float32, small=args.small)
    report |= {
        "ceilings": asdict(limits),
        "warmup": WARMUP,
        "seconds": args.seconds,
        "checked": args.checked,
    }
    report |= {"policies": {}, "rows": [], "refused": []}
    for name in args.policies:
        policy, observations, weights = load(name, device)
        size = sum(p.numel() for p in policy.network.parameters())
        report["policies"][name] = {"weights": weights, "parameters": size}
        # a random network has no mean slope worth knowing; batches take the first observations
        spare = None if weights == "random" else observations[-64:]
        groups = [*args.samplers, *(["head"] if policy.config.head is not None else [])]
        for batch in args.batches:
            obs = batches(observations, batch)
            for group in groups:
                rows, refused = measure(policy, group, obs, limits, args, spare)
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
    take.add_argument("--least", type=int, default=5, help="fewest calls a side")
    take.add_argument("--checked", type=int, default=3, help="calls the errors are over")
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
