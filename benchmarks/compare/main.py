"""Compare our solvers with diffusers and LeRobot on the same weights.

    python -m benchmarks.compare.main run [--policies ...] [--output FILE.json]
    python -m benchmarks.compare.main picture FILE.json [PICTURE.png]

Timing: one call from raw observations to the normalised chunk, its noise drawn inside; warm-up
first, device synchronised on both sides, all sides of a sampler taking turns call by call. Our rows
run eagerly and, on CUDA, as graphs too (``--modes``); the other packages run as shipped. Errors
are largest absolute and root mean square differences to the sequential chunk of the row's
reference sampler, same noise. LeRobot's rows need ``PCM_LEROBOT_PYTHON``
(``benchmarks/lerobot/env.py``) and are left out unless its chunks equal ours.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from benchmarks.compare.floor import ceilings
from benchmarks.compare.measure import measure
from benchmarks.compare.picture import print_table, write_picture
from benchmarks.compare.policies import identity, load
from benchmarks.compare.timing import WARMUP, batches
from pcm_policy.files import to_json, write_text

SAMPLERS = ("ddpm-100", "ddim-16", "ddim-32")
POLICIES = ("released/pusht_mlp", "released/pusht", "unet-65m")


def add_ratios(rows: list[dict[str, Any]]) -> None:
    """Add every row's speed relative to sequential DDPM-100, ours and its own package's.

    Both run in the row's own mode: a graph is never compared with an eager loop.
    """
    for row in rows:
        for key, package in (("ours", "pcm_policy"), ("own", row["package"])):
            base = [
                r["p50_ms"]
                for r in rows
                if (r["package"], r["method"], r["reference"]["name"])
                == (package, "sequential", "ddpm")
                and (r["policy"], r["batch"], r["mode"])
                == (row["policy"], row["batch"], row["mode"])
            ]
            row[f"speedup_over_{key}_ddpm"] = base[0] / row["p50_ms"] if base else None


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Run the comparison and write its file after every group."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = args.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = args.precision == "tf32"
    args.modes = args.modes or (["eager", "graph"] if device.type == "cuda" else ["eager"])
    report: dict[str, Any] = identity(device) | {"dtype": "float32", "device": str(device)}
    report["precision"] = args.precision
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
    take.add_argument("--least", type=int, default=3, help="fewest calls a side")
    take.add_argument("--checked", type=int, default=2, help="calls the errors are over, 2 or more")
    take.add_argument("--modes", nargs="+", help="of our rows: eager graph compile")
    take.add_argument("--precision", choices=("float32", "tf32"), default="float32")
    take.add_argument("--threads", type=int, default=torch.get_num_threads())
    take.add_argument("--device", default="cpu")
    take.add_argument("--small", action="store_true", help="rough ceilings, for tests")
    take.add_argument("--output", type=Path, default=RESULTS / "compare/compare.json")
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
