"""Time solves as packages without Python: ONNX Runtime on every side, beside eager execution.

    python -m benchmarks.packages [--policy released/pusht_mlp] [--output DIR]

The rows are those of ``benchmarks.study.pcm`` whose score is the base's (the paired 95 % interval
of the difference lies within 0.03), its base, and sequential DDPM-100, with the scores measured
there. Each is exported (``pcm-export``), compared with its eager chunk, and then all take turns at
batch 1 on held-out observations; eager execution is timed in the same way. A ratio is the time of
DDPM-100, executed in the same way, over that of the row. The steps of a sequential sampler are a
loop inside its package.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks import RESULTS
from pcm_policy.export import example
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.bench import time_predictions
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.inputs import Inputs, eager
from pcm_policy.runtime.onnx import Onnx
from pcm_policy.runtime.recorded import Function
from pcm_policy.runtime.timing import Side
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver, flat

WITHIN = 0.03
HEAD = [
    "solve",
    "evaluations",
    "score",
    "ONNX p50 / p95 ms",
    "ratio",
    "eager p50 / p95 ms",
    "ratio",
]


def todays(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's settings without those that solvers had, unused, when it was measured.

    A study that is of today has none of them, and is left as it is.
    """
    found = {k: v for k, v in settings.items() if k not in ("safety", "adaptive", "memory")}
    head = found.pop("pcm_rounds", None)
    return found if head is None else found | {"shares": [1.0] * head}


def study_rows(policy: DiffusionPolicy, study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return DDPM-100, the base, and the rows of equal score that a package can hold."""
    ddpm = {"method": "sequential", "sampler": "ddpm"}
    rows: list[dict[str, Any]] = []
    for row in study["rows"]:
        low, high = row["score"]["difference_ci95"]
        base = row is study["rows"][0]
        method = row["solver"]["method"]
        held = method != "newton" and ":" not in method  # module:Name is a peer's step
        held = held and "settle" not in row["solver"]
        equal = low >= -WITHIN and high <= WITHIN and held
        if base or row["name"].startswith("DDPM") or equal:
            given = ddpm if row["name"].startswith("DDPM") else todays(row["solver"])
            solver = policy.solver(given)
            name = solver.label if base else row["name"]
            rows.append({"name": name, "solver": solver, "score": row["score"]["mean"]})
    return sorted(rows, key=lambda row: row["solver"].sampler.name != "ddpm")


def package(policy: DiffusionPolicy, solver: Solver, inputs: Mapping[str, Tensor]) -> Function:
    """Export one solve to ONNX and compare it with eager execution."""

    def solve(given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        obs, initial, *steps = given
        sample = eager(policy.assemble, Inputs(obs, Noise(initial, *steps)), solver).sample
        return sample, policy.raw_chunk(sample)

    record = Onnx().recorder(policy, RuntimeConfig("onnx"))
    return record(solve, tuple(inputs.values()))


def side(run: Function, inputs: Mapping[str, Tensor], obs: Tensor) -> Side:
    """Return a side of :func:`time_predictions`: one call of a package."""
    others = [tuple({**inputs, "obs": row[None]}.values()) for row in obs]

    def call(number: int) -> None:
        run(others[number % len(others)])

    return call


def cells(row: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """Return one line of the table; ``first`` is DDPM-100."""
    found = [row["name"], str(row["nfe"]), f"{row['score']:.3f}"]
    for mode in ("onnx_ms", "eager_ms"):
        spent = f"{row[mode]['p50']:.2f} / {row[mode]['p95']:.2f}"
        found += [spent, f"{first[mode]['p50'] / row[mode]['p50']:.1f}x"]
    return found


def main() -> None:
    """Export, time, and write ``packages.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--study", type=Path, help="study.json of benchmarks.study.pcm")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "packages")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    path = options.study or RESULTS / "study" / Path(options.policy).name / "study.json"
    rows = study_rows(policy, json.loads(path.read_text()))
    assert policy.held_out is not None
    obs = policy.held_out[:24]
    packages = []
    for row in tqdm(rows, "exporting", disable=None):
        inputs = example(policy, row["solver"], 1, seed=0)
        packages.append(side(package(policy, row["solver"], inputs), inputs, obs))
        row["nfe"] = policy.solve(inputs["obs"], row["solver"]).nfe
    frames, solvers = obs.numpy(), [row["solver"] for row in rows]
    onnx = time_predictions(policy, [], frames, options.calls, others=packages)
    eager = time_predictions(policy, solvers, frames, options.calls)
    for row, fast, slow in zip(rows, onnx, eager, strict=True):
        row |= {"onnx_ms": fast, "eager_ms": slow, "solver": flat(row["solver"])}
    report = {**conditions(policy), "rows": rows}
    write_text(options.output / "packages.json", to_json(report))
    lines = [cells(row, rows[0]) for row in rows]
    print(table(HEAD, lines))


if __name__ == "__main__":
    main()
