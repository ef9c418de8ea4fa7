"""Every GPU figure by one command on a bare machine: torch, numpy, safetensors, this checkout.

    python -m benchmarks.gpu.main [--solves 10000] [--precision tf32] [--output FILE.json]
    python -m benchmarks.gpu.main --small            # a tiny form on the CPU, in seconds

U-Net of 65 M parameters (256-512-1024) with the sampler and the head's settings of
released/pusht, and random weights, which change no time but the number of adaptive rounds. All
solvers run in CUDA graphs (``pcm_policy.runtime``) at the same precision; ``eager`` rows are the
loop as published policies run it. Percentiles of end-to-end calls, see ``sides.py``; the solvers
take turns call by call. The file is written after every figure, and one that fails is listed under
``failed`` with why, so that a run leaves what it had. Figures that need CUDA are listed under
``missing`` where there is none.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from benchmarks.gpu.figures import Figures
from benchmarks.gpu.sides import PRECISIONS


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="tiny network, CPU, seconds")
    parser.add_argument("--parts", nargs="+", default=("rows", "throughput"))
    parser.add_argument("--solves", type=int, help="rows of this package (10000)")
    parser.add_argument("--eager-solves", type=int, help="rows of the usual loop (300)")
    parser.add_argument("--throughput-solves", type=int, help="a batch size (100)")
    parser.add_argument("--seconds", type=float, default=1800.0, help="most time for a group")
    parser.add_argument("--precision", choices=PRECISIONS, default="tf32")
    parser.add_argument("--picard-rounds", type=int, help="default: what the weights need")
    parser.add_argument("--only", nargs="+", help="names of solvers")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--commit", help="where the machine has no git")
    parser.add_argument("--output", type=Path, default=RESULTS / "compare/gpu.json")
    args = parser.parse_args(words)
    usual = (3, 1, 2) if args.small else (10_000, 300, 100)
    for name, value in zip(("solves", "eager_solves", "throughput_solves"), usual, strict=True):
        setattr(args, name, getattr(args, name) or value)
    report: dict[str, Any] = {}
    Figures(args, report).all()
    return report


if __name__ == "__main__":
    main()
