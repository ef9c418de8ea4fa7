"""The figures of ``benchmarks.gpu.main``: which solvers, how they are timed, what a row says."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.compare.floor import Ceilings, ceilings, copy_bandwidth, floor, network_cost
from benchmarks.compare.policies import identity
from benchmarks.gpu.sides import EagerLoop, Solve, build, runtime, time_turns, worst_rounds
from pcm_policy.adopt.originals.memory import peak_memory
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.statistics import percentiles
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.precision import TYPES
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

DDPM = SamplerConfig("ddpm", 100)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
ERROR = 1e-3
THROUGHPUT_SECONDS = 5.0


def solvers(policy: DiffusionPolicy, picard_rounds: int) -> dict[str, Solver]:
    """Return the solvers by label; a new one is one line."""
    assert policy.config.head is not None
    own = policy.config.head.sampler
    found = (
        Solver.of("sequential", DDPM),
        Solver.of("sequential", SamplerConfig("ddim", 10)),
        Solver.of("sequential", own),
        Solver.of("picard", DDPM, tolerance=ERROR),
        Solver.of("picard", DDPM, rounds=picard_rounds),
        Solver.of("pcm", own, rounds=1),
        Solver.of("pcm", own, rounds=2),
    )
    return {solver.label: solver for solver in found}


class Figures:
    """The report that is filled, and what all its figures share.

    Args:
        args: the command line.
        report: plain data for JSON, in which every figure is put and which is written each time.
    """

    def __init__(self, args: argparse.Namespace, report: dict[str, Any]) -> None:
        self.args, self.report = args, report
        device = torch.device("cuda" if torch.cuda.is_available() and not args.small else "cpu")
        self.cuda = device.type == "cuda"
        self.mode = "graph" if self.cuda else "eager"
        if args.threads:
            torch.set_num_threads(args.threads)
        self.policy = build((16, 32) if args.small else (256, 512, 1024), device)
        self.eager = runtime(self.policy, "eager", args.precision)
        self.fast = runtime(self.policy, self.mode, args.precision)
        report |= identity(device) | {"precision": args.precision, "device": str(device)}
        report["commit"] = args.commit or report["commit"]
        size = sum(p.numel() for p in self.policy.network.parameters())
        report |= {"parameters": size, "weights": "random", "rows": [], "throughput": []}
        report |= {"failed": [], "missing": []}
        rounds = args.picard_rounds or worst_rounds(
            self.policy, DDPM, ERROR, 2 if args.small else 16, self.eager
        )
        self.chosen = {
            k: v for k, v in solvers(self.policy, rounds).items() if not args.only or k in args.only
        }
        if not self.cuda:
            names = [*self.chosen, *(f"batch {b}" for b in BATCHES)]
            report["missing"] = [f"graph: {x}" for x in names] + ["CUDA memory"]

    def attempt(self, figure: str, make: Callable[[], None]) -> None:
        """Make a figure and write the file; a failure is reported and costs no other figure."""
        try:
            make()
        except Exception as error:  # whatever it is: the machine may be lent for minutes only
            reason = f"{type(error).__name__}: {error}"
            self.report["failed"].append({"figure": figure, "reason": reason[:2000]})
            print(f"failed: {figure}: {reason}", flush=True)
        write_text(Path(self.args.output), to_json(self.report))

    def observations(self, count: int, batch: int) -> torch.Tensor:
        """Return ``(n, B, To, Do)`` on the host, pinned on CUDA."""
        obs = 2 * torch.rand(count, batch, 2, 20) - 1
        return obs.pin_memory() if self.cuda else obs

    def rows(self) -> None:
        """Time all solvers at batch 1, then the usual loop."""
        limits = ceilings(self.policy.device, network_type(self.eager), small=bool(self.args.small))
        self.report["ceilings"] = asdict(limits)
        if self.cuda:
            self.report["held_bytes"] = torch.cuda.memory_allocated()  # weights, not in the rows
        obs = self.observations(16, 1)
        sides: dict[str, Solve] = {}
        memory: dict[str, float | None] = {}

        def prepare(name: str, solver: Solver) -> None:
            side = Solve(self.policy, solver, 1, self.fast)
            memory[name] = peak_memory(lambda: side(obs[0]), self.policy.device)
            sides[name] = side

        for name, solver in self.chosen.items():
            self.attempt(name, lambda n=name, s=solver: prepare(n, s))
        usual = (DDPM, self.policy.config.sampler)  # loops as published policies run them
        loops = {
            sampler.label: EagerLoop(self.policy, sampler, module(self.eager))
            for sampler in usual
            if sampler.label in self.chosen
        }
        more = {k: {"memory_bytes": m} for k, m in memory.items()}

        def ours() -> None:
            spent = time_turns(sides, obs, self.args.solves, self.args.seconds)
            for name, ms in spent.items():
                side = sides[name]
                count = len(ms)  # the calls before these warmed up
                rounds, nfe = mean(side.rounds[-count:]), mean(side.nfe[-count:])
                found = more[name] | side.errors(self.eager)
                if side.solver.method == "pcm":
                    found["note"] = "untrained head: the time is a trained one's, the error is not"
                self.add("pcm_policy", name, self.mode, ms, rounds, nfe, limits, found)

        def usual() -> None:
            spent = time_turns(loops, obs, self.args.eager_solves, self.args.seconds)
            for name, ms in spent.items():
                steps = float(len(loops[name].steps))
                self.add("usual loop", name, "eager", ms, steps, steps, limits, {})

        self.attempt("rows", ours)
        self.attempt("usual loop", usual)

    def add(
        self,
        package: str,
        name: str,
        mode: str,
        ms: Sequence[float],
        rounds: float,
        nfe: float,
        limits: Ceilings,
        more: Mapping[str, Any],
    ) -> None:
        """Add a row with its floor."""
        cost = network_cost(self.policy, 1, module(self.eager))
        near = cost["weight_bytes"] + nfe / rounds * cost["activation_bytes"]
        speed = copy_bandwidth(self.policy.device, int(near), 0.1)
        row: dict[str, Any] = {"package": package, "solver": name, "mode": mode, "batch": 1}
        row |= {"solves": len(ms), "rounds": rounds, "nfe": nfe}
        row |= {f"{k}_ms": v for k, v in percentiles(ms).items()}
        row |= {"p99_over_p50": row["p99_ms"] / row["p50_ms"]}
        row |= {"per_round_ms": row["p50_ms"] / rounds, **more}
        row |= floor(cost, limits, speed, rounds, nfe, cost["operations"] * nfe)
        row["floor_per_round_ms"] = row["floor_ms"] / rounds
        row["times_floor"] = row["p50_ms"] / row["floor_ms"]
        self.report["rows"].append(row)
        print(
            f"{package:11} {name:22} {mode:6} {rounds:5.1f} rounds p50 {row['p50_ms']:9.3f} "
            f"p99 {row['p99_ms']:9.3f} ms  x floor {row['times_floor']:.1f}",
            flush=True,
        )

    def throughput(self, name: str, solver: Solver, batch: int) -> None:
        """Add the chunks a second of a solver at one batch size."""
        run = runtime(self.policy, self.mode, self.args.precision)  # its graphs go with it
        side, obs = Solve(self.policy, solver, batch, run), self.observations(4, batch)
        seconds = min(THROUGHPUT_SECONDS, self.args.seconds)
        ms = time_turns({name: side}, obs, self.args.throughput_solves, seconds)[name]
        row = {"solver": name, "mode": self.mode, "batch": batch, "solves": len(ms)}
        row |= {f"{k}_ms": v for k, v in percentiles(ms).items()}
        row["rounds"] = mean(side.rounds[-len(ms) :])
        self.report["throughput"].append(row | {"chunks_per_second": 1e3 * batch / row["p50_ms"]})

    def all(self) -> None:
        """Make every figure that was asked for."""
        if "rows" in self.args.parts:
            self.rows()
        if "throughput" not in self.args.parts:
            return
        for batch in BATCHES[:2] if self.args.small else BATCHES:
            for name, solver in self.chosen.items():
                figure = f"throughput {name} batch {batch}"
                self.attempt(figure, lambda n=name, s=solver, b=batch: self.throughput(n, s, b))
                if self.cuda:
                    torch.cuda.empty_cache()


def module(run: Runtime) -> torch.nn.Module:
    """Return the network that a runtime calls."""
    network = run.execute.network
    assert isinstance(network, torch.nn.Module)
    return network


def network_type(run: Runtime) -> torch.dtype:
    """Return the type that a runtime's network computes in."""
    return TYPES[run.config.precision] or run.policy.dtype


def mean(values: Sequence[float]) -> float:
    """Return the mean."""
    return sum(values) / len(values)
