"""Time the engines against each other: one network call, and whole solves, all taking turns.

    python -m benchmarks.engines [--policies released/pusht ...] [--calls 40]

One process, one thread, batch 1 unless a batch is said. Every side computes the same numbers, and
its largest difference to eager execution stands beside its time (normalised action units). ``onnx,
as written`` is ONNX Runtime without :mod:`pcm_policy.runtime.lowered`: what ``runtime.mode=onnx``
was before. Times are wall-clock percentiles; ``cpu`` is the median of the time that the process
itself computed, which other work on the machine lengthens less. ``least`` is what the processor
needs at least, by ceilings that are measured first: for the operations, and to read every weight
from memory once.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks import RESULTS
from benchmarks.compare.floor import Ceilings, ceilings, operations, weight_bytes
from benchmarks.compare.policies import load
from pcm_policy.export import FixedSolve, example
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime import graphs
from pcm_policy.runtime.auto import versions
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.onnx import Onnx
from pcm_policy.runtime.openvino import OpenVino
from pcm_policy.runtime.timing import take_turns

Call = Callable[[], Tensor]
SOLVES: Mapping[str, Mapping[str, Any]] = {
    "two PCM rounds": {"method": "pcm", "rounds": 2},
    "one PCM round": {"method": "pcm", "rounds": 1},
    "sequential base": {"method": "sequential"},
}
HEADLESS: Mapping[str, Mapping[str, Any]] = {
    "four Picard rounds": {"method": "picard", "rounds": 4},
    "sequential base": {"method": "sequential"},
}
"""Of a policy without a head, such as a random U-Net of ``benchmarks.compare.policies``."""
ENGINES: Mapping[str, tuple[Engine, bool]] = {
    "onnx, as written": (Onnx(), False),
    "onnx": (Onnx(), True),
    "openvino": (OpenVino(), True),
}
POLICIES = ("released/pusht", "released/pusht_mlp", "unet-65m")
TODAY = ("eager", "onnx, as written")
"""What there was before."""


def written(module: nn.Module, given: Sequence[Tensor], path: Path, lower: bool) -> Path:
    """Write a module as ONNX; without lowering where that is what is measured."""
    kept = graphs.lowered
    try:
        if not lower:
            graphs.lowered = lambda program: program
        graphs.write_onnx(module, given, path)
    finally:
        graphs.lowered = kept
    return path


def calls_of(module: nn.Module, given: Sequence[Tensor], folder: Path) -> dict[str, Call]:
    """Return what calls a module in every engine, by name."""

    def eager() -> Tensor:
        with torch.inference_mode():
            found: Tensor = module(*given)
            return found

    result: dict[str, Call] = {"eager": eager}
    files = {lower: written(module, given, folder / f"{lower}.onnx", lower) for lower in (0, 1)}
    for name, (engine, lower) in ENGINES.items():
        run = engine.open(files[lower], RuntimeConfig())
        result[name] = lambda run=run: run(given)[0]  # type: ignore[misc]
    return result


class Network(nn.Module):
    """A policy's network, of inputs ``(B, T, Da)``, ``(B,)`` and ``(B, C)``."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.network = policy.network

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return what the network predicts."""
        found: Tensor = self.network(x, t, cond)
        return found


class Normalised(FixedSolve):
    """A solve whose chunk stays in normalised units, in which differences are given."""

    def forward(self, obs: Tensor, initial: Tensor, steps: Tensor | None = None) -> Tensor:
        """Map observations and noise to the chunk."""
        return self.policy.action_normalizer.normalize(super().forward(obs, initial, steps))


def subjects(
    policy: DiffusionPolicy, batches: Sequence[int]
) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """Yield what is timed: names, modules and their inputs."""
    for batch in batches:
        config, draw = policy.config, torch.Generator().manual_seed(batch)
        x = torch.randn(batch, *config.chunk_shape, generator=draw)
        cond = torch.randn(batch, config.network_cond_dim, generator=draw).clamp(-1, 1)
        t = torch.full((batch,), config.schedule.train_steps // 2)
        yield f"one network call, batch {batch}", Network(policy).eval(), (x, t, cond)
    for name, values in (HEADLESS if policy.config.head is None else SOLVES).items():
        solver = policy.solver(values)
        given = tuple(example(policy, solver, 1, seed=0).values())
        yield name, Normalised(policy, solver).eval(), given


def timed(sides: Mapping[str, Call], calls: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return percentiles of wall-clock times and the median of computing times, by name."""
    own: dict[str, list[float]] = {name: [] for name in sides}

    def side(name: str) -> Callable[[int], None]:
        def call(_: int) -> None:
            before = time.process_time()
            sides[name]()
            own[name].append((time.process_time() - before) * 1e3)

        return call

    spent = take_turns([side(name) for name in sides], calls, seconds=seconds, least=5)
    found = {}
    for (name, cpu), wall in zip(own.items(), spent, strict=True):
        found[name] = percentiles(wall) | {"cpu": float(np.median(cpu[-len(wall) :]))}
    return found


def least(module: nn.Module, given: Sequence[Tensor], limits: Ceilings) -> dict[str, float]:
    """Return the least milliseconds that a call can take: ``operations`` and ``weights``."""
    with torch.inference_mode():
        count = operations(lambda: module(*given))
    size = weight_bytes(module)
    return {"operations": 1e3 * count / limits.peak, "weights": 1e3 * size / limits.bandwidth}


def measured(
    policy: DiffusionPolicy, args: argparse.Namespace, limits: Ceilings
) -> Iterator[dict[str, Any]]:
    """Time everything of one policy, row by row."""
    for name, module, given in tqdm(list(subjects(policy, args.batches)), disable=None):
        with tempfile.TemporaryDirectory() as folder, catch_warnings():
            simplefilter("ignore")
            sides = calls_of(module, given, Path(folder))
            exact = sides["eager"]().clone()
            off = {side: float((call() - exact).abs().max()) for side, call in sides.items()}
            spent = timed(sides, args.calls, args.seconds)
        found = {side: spent[side] | {"difference": off[side]} for side in sides}
        bound = least(module, given, limits)
        yield {"name": name, "sides": found, "least": bound, "load": os.getloadavg()[0]}


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return one line of the table: medians, and how much faster the engines are."""
    sides = row["sides"]
    shown = [f"{one['p50']:.2f} ({one['cpu']:.2f})" for one in sides.values()]
    ratios = []
    for name in ("onnx", "openvino"):
        best = min(sides[one]["cpu"] for one in TODAY)
        ratios.append(f"{best / sides[name]['cpu']:.2f}x")
    bound = " / ".join(f"{row['least'][name]:.2f}" for name in ("operations", "weights"))
    return [row["name"], *shown, *ratios, f"{sides['openvino']['difference']:.0e}", bound]


HEAD = ["", "eager", *ENGINES, "onnx gains", "openvino gains", "openvino off by"]
HEAD += ["least: operations / weights"]


def main() -> None:
    """Time, print, and write ``engines.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 6, 16, 32])
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0, help="most for each row")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "engines")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    limits = ceilings(torch.device("cpu"), torch.float32)
    lines = []
    for name in args.policies:
        policy, _, weights = load(name, torch.device("cpu"))
        rows: list[dict[str, Any]] = []
        about = conditions(policy) | {"policy": name, "trained": weights}
        about |= {"engines": versions(), "batch": 1, "ceilings": asdict(limits)}
        for row in measured(policy, args, limits):  # written each time: a row takes minutes
            rows.append(row)
            write_text(args.output / f"{Path(name).name}.json", to_json(about | {"rows": rows}))
        lines += [[f"{Path(name).name}: {first}", *rest] for first, *rest in map(cells, rows)]
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
