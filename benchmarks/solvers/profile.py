"""Where the time of one prediction goes: ``python -m benchmarks.solvers.profile``.

Every part of a prediction is timed where it is called, its callees that are parts themselves taken
off, and what is left is the loop; solvers take turns call by call. For the share of matrix products
a second pass runs under torch.profiler, which slows everything but them: a lower bound. CPU, eager.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.compare.policies import identity, load
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.before.anderson import Anderson
from pcm_policy.solvers.before.newton import QuasiNewton
from pcm_policy.solvers.before.solve import SolverConfig

PARTS = {
    "encode": "encode",  # step and condition, once a solve
    "network": "network",
    "head": "head",
    "correct": "correction",  # Newton, Anderson
    "affine": "F + M D",
    "clean": "clean, clip",
    "ends": "checks, units",  # of the observation and of the chunk
    "loop": "loop",
}
PRODUCTS = {"aten::addmm", "aten::mm", "aten::bmm", "aten::mkldnn_convolution"}
PRODUCTS |= {"aten::slow_conv_transpose2d", "aten::_slow_conv2d_forward"}
WARMUP = 10
Solve = Callable[[int], object]


class Stopwatch:
    """Exclusive seconds of every part of the calls made so far."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner: list[float] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed."""

        def call(*args: Any, **options: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                whole = time.perf_counter() - start
                self.spent[part] = self.spent.get(part, 0.0) + whole - self._inner.pop()
                if self._inner:
                    self._inner[-1] += whole

        return call


@contextmanager
def watched(policy: DiffusionPolicy, watch: Stopwatch) -> Iterator[None]:
    """Time every part of this policy's predictions."""
    places: list[tuple[str, object, str]] = [
        ("encode", policy.network, "encode"),
        ("network", policy.network, "decode"),
        ("clean", Denoiser, "__call__"),
        ("correct", QuasiNewton, "__call__"),
        ("correct", Anderson, "mix"),
        ("ends", policy, "observe"),
        ("ends", policy, "condition"),
        ("ends", policy, "raw_chunk"),
    ]
    for module in ("base", "iterate", "newton", "sequential"):
        owner = import_module(f"pcm_policy.solvers.{module}")  # a function has its module's name
        places.append(("affine", owner, "combine"))
    if policy.head is not None:
        places.append(("head", policy.head, "forward"))
    with ExitStack() as stack:
        for part, owner, name in places:
            timed = watch.timed(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        yield


def solvers(policy: DiffusionPolicy) -> list[SolverConfig]:
    """Return what is profiled with a policy: of random weights two rows, which cost enough."""
    own = policy.config.sampler
    few = SolverConfig("sequential", SamplerConfig("ddim", 8))
    rows = [few, SolverConfig("picard", own, rounds=4)]
    if policy.held_out is not None:
        slow = SolverConfig("sequential", SamplerConfig("ddpm", 100))
        accelerated = [SolverConfig("coarse", own, rounds=4), SolverConfig("newton", own, rounds=3)]
        rows = [slow, *rows, *accelerated]
    if policy.config.head is not None:
        rows.append(SolverConfig("pcm", policy.config.head.sampler, rounds=2))
    return rows


def products(solve: Solve, calls: int) -> float:
    """Return the share of the profiled time that passes inside matrix products."""
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
        for i in range(calls):
            solve(i)
    events = seen.key_averages()
    whole = sum(e.self_cpu_time_total for e in events)
    return sum(e.self_cpu_time_total for e in events if e.key in PRODUCTS) / whole


def measure(policy: DiffusionPolicy, obs: torch.Tensor, calls: int) -> list[dict[str, Any]]:
    """Profile every solver of one policy."""
    raw, rows = obs.cpu().numpy(), solvers(policy)

    def predict(solver: SolverConfig, i: int) -> None:
        noise = paired_noise(policy, solver, 1, i)
        policy.predict(raw[i % len(raw)], solver=solver, noise=noise)

    found: list[list[dict[str, float]]] = [[] for _ in rows]
    for i in range(-WARMUP, calls):
        for spent, solver in zip(found, rows, strict=True):
            watch = Stopwatch()
            with (
                watched(policy, watch),
                patch.object(policy, "predict", watch.timed("loop", policy.predict)),
            ):
                predict(solver, i + WARMUP)
            if i >= 0:
                spent.append(watch.spent)
    result = []
    for spent, solver in zip(found, rows, strict=True):
        ms = {p: 1e3 * median(s.get(p, 0.0) for s in spent) for p in PARTS}
        p50 = 1e3 * median(sum(s.values()) for s in spent)
        share = {p: v / sum(ms.values()) for p, v in ms.items()}
        inside = products(lambda i, s=solver: predict(s, i), max(1, calls // 10))
        row = {"solver": solver.label, "p50_ms": p50, "share": share, "products": inside}
        result.append(row)
    return result


def table(policies: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table, shares in percent."""
    head = ["policy", "solver", "p50 ms", *PARTS.values(), "products"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, rows in policies.items():
        for row in rows:
            shares = [f"{100 * row['share'][p]:.0f}" for p in PARTS]
            cells = [name, row["solver"], f"{row['p50_ms']:.2f}", *shares]
            lines.append("| " + " | ".join([*cells, f"{100 * row['products']:.0f}"]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=["released/pusht_mlp", "released/pusht"])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/profile_solve.json"))
    args = parser.parse_args(argv)
    device = torch.device("cpu")
    found = identity(device) | {"calls": args.calls, "policies": {}}
    for name in args.policies:
        policy, obs, weights = load(name, device)
        label = name if weights == name else f"{name} ({weights})"
        found["policies"][label] = measure(policy, obs, args.calls)
    print(table(found["policies"]))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
