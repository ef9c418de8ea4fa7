"""Where the time of one prediction goes.

    python -m benchmarks.solvers.profile [POLICY ...]

Every part of a prediction is timed where it is called, its callees that are parts themselves taken
off, and what is left is the loop; solvers take turns call by call. For the share of matrix products
a second pass runs under torch.profiler, which slows everything but them: a lower bound. CPU, eager.
"""

import argparse
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

from benchmarks import RESULTS
from benchmarks.compare.policies import identity, load
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import weights
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.timing import Side, take_turns
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.anderson import Anderson
from pcm_policy.solvers.newton import Newton
from pcm_policy.solvers.picard import Picard
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.step import needs
from pcm_policy.solvers.system import System

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
HEAD = ["policy", "solver", "p50 ms", *PARTS.values(), "products"]
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
        ("correct", Newton, "step"),
        ("correct", Anderson, "step"),
        ("loop", Picard, "step"),
        ("ends", policy, "observe"),
        ("ends", policy, "condition"),
        ("ends", policy, "raw_chunk"),
    ]
    places.append(("affine", System, "sweep"))
    for module in ("coarse", "sequential"):
        places.append(("affine", import_module(f"pcm_policy.solvers.{module}"), "combine"))
    if policy.head is not None:
        places.append(("head", policy.head, "forward"))
    with ExitStack() as stack:
        for part, owner, name in places:
            timed = watch.timed(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        yield


def solvers(policy: DiffusionPolicy) -> list[Solver]:
    """Return what is profiled with a policy: of random weights two rows, which cost enough."""
    own = policy.config.sampler
    few = Solver.of("sequential", SamplerConfig("ddim", 8))
    rows = [few, Solver.of("picard", own, rounds=4)]
    if policy.held_out is not None:
        slow = Solver.of("sequential", SamplerConfig("ddpm", 100))
        accelerated = [Solver.of("coarse", own, rounds=4), Solver.of("newton", own, rounds=3)]
        rows = [slow, *rows, *accelerated]
    if policy.config.head is not None:
        rows.append(Solver.of("pcm", policy.config.head.sampler, rounds=2))
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
    for sampler in {row.sampler for row in rows if "jacobian" in needs(row.step)}:
        policy.calibrate(obs[:128], sampler)

    def predict(solver: Solver, i: int) -> None:
        noise = paired_noise(policy, solver, 1, i)
        policy.predict(raw[i % len(raw)], solver=solver, noise=noise)

    found: list[list[dict[str, float]]] = [[] for _ in rows]

    def side(solver: Solver, parts: list[dict[str, float]]) -> Side:
        def call(number: int) -> float:
            watch = Stopwatch()
            whole = watch.timed("loop", policy.predict)
            with watched(policy, watch), patch.object(policy, "predict", whole):
                predict(solver, number)
            parts.append(watch.spent)
            return 1e3 * sum(watch.spent.values())

        return call

    sides = [side(solver, parts) for solver, parts in zip(rows, found, strict=True)]
    times = take_turns(sides, calls, warmup=WARMUP)
    result = []
    for parts, ms_of_calls, solver in zip(found, times, rows, strict=True):
        spent = parts[-calls:]
        ms = {p: 1e3 * median(s.get(p, 0.0) for s in spent) for p in PARTS}
        p50 = percentiles(ms_of_calls)["p50"]
        share = {p: v / sum(ms.values()) for p, v in ms.items()}
        inside = products(lambda i, s=solver: predict(s, i), max(1, calls // 10))
        row = {"solver": solver.label, "p50_ms": p50, "share": share, "products": inside}
        result.append(row)
    return result


def cells(policies: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """Return the lines of the table, shares in percent."""
    found = []
    for name, rows in policies.items():
        for row in rows:
            shares = [f"{100 * row['share'][p]:.0f}" for p in PARTS]
            found.append([name, row["solver"], f"{row['p50_ms']:.2f}", *shares])
            found[-1].append(f"{100 * row['products']:.0f}")
    return found


def main(argv: list[str] | None = None) -> None:
    """Write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policies", nargs="*", default=["released/pusht_mlp", "released/pusht"])
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "profile_solve.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device("cpu")
    found = identity(device) | {"calls": args.calls, "weights": {}, "policies": {}}
    for name in args.policies:
        policy, obs, trained = load(name, device)
        label = name if trained == name else f"{name} ({trained})"
        found["weights"][label] = weights(policy)
        found["policies"][label] = measure(policy, obs, args.calls)
    write_text(args.out, to_json(found))
    print(table(HEAD, cells(found["policies"])))


if __name__ == "__main__":
    main()
