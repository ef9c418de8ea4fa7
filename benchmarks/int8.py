"""Try whether 8-bit integers make a solve faster: static quantisation of its convolutions.

    python -m benchmarks.int8 [--policy released/pusht] [--calls 60]

The ONNX graph of two PCM rounds is quantised by ONNX Runtime's own tool (QDQ, a scale per channel),
calibrated on held-out observations, and run in both engines beside float32, taking turns, on one
thread, batch 1. Errors are root mean squares to eager execution over other observations, in
normalised action units. It is not a ``runtime.precision``: see docs/performance.md for why.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.engines import Normalised, timed
from pcm_policy.export import example
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime import graphs
from pcm_policy.runtime.auto import versions
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.onnx import Onnx, open_session
from pcm_policy.runtime.openvino import OpenVino
from pcm_policy.solvers.registry import Solver

CALIBRATED, CHECKED = range(32), range(100, 132)
"""Which observations and noise the scales come from, and the errors."""


def inputs(policy: DiffusionPolicy, solver: Solver, number: int) -> tuple[Tensor, ...]:
    """Return one observation and its noise."""
    assert policy.held_out is not None
    found = example(policy, solver, 1, seed=number)
    row = number % len(policy.held_out)
    return tuple((found | {"obs": policy.held_out[row : row + 1]}).values())


class Calibration:
    """Hands out inputs, as ONNX Runtime's quantisation asks for them."""

    def __init__(self, names: Sequence[str], given: Sequence[Sequence[Tensor]]) -> None:
        self._rows = iter([dict(zip(names, one, strict=True)) for one in given])

    def get_next(self) -> Mapping[str, Any] | None:
        """Return the next inputs; None after the last."""
        row = next(self._rows, None)
        return None if row is None else {name: value.numpy() for name, value in row.items()}


def quantised(path: Path, given: Sequence[Sequence[Tensor]]) -> Path:
    """Write a graph with its convolutions in 8 bits beside a graph."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    names = [one.name for one in open_session(path).get_inputs()]
    found = path.with_name("int8.onnx")
    quantize_static(
        str(path),
        str(found),
        Calibration(names, given),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        op_types_to_quantize=["Conv"],
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return found


def main() -> None:
    """Quantise, time, print, and write ``int8.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht", help="a policy with a PCM head")
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--output", type=Path, default=RESULTS / "engines/int8.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(args.policy)
    solver = policy.solver({"method": "pcm", "rounds": 2})
    module, other = Normalised(policy, solver).eval(), [inputs(policy, solver, i) for i in CHECKED]
    with tempfile.TemporaryDirectory() as folder:
        exact = Path(folder, "float32.onnx")
        graphs.write_onnx(module, other[0], exact)
        files = {
            "float32": exact,
            "int8": quantised(exact, [inputs(policy, solver, i) for i in CALIBRATED]),
        }
        runs = {
            f"{engine.package} {kind}": engine.open(path, RuntimeConfig())
            for engine in (Onnx(), OpenVino())
            for kind, path in files.items()
        }
        with torch.inference_mode():
            want = torch.cat([module(*one) for one in other])
        sides = {name: lambda run=run: run(other[0])[0] for name, run in runs.items()}
        spent = timed(sides, args.calls, 60.0)
        rows = []
        for name, run in runs.items():
            off = torch.cat([run(one)[0] for one in other]) - want
            rmse = float(off.square().mean(dim=(1, 2)).sqrt().mean())
            rows.append({"name": name, "rmse": rmse, **spent[name]})
    about = conditions(policy) | {"engines": versions(), "solver": solver.label, "rows": rows}
    write_text(args.output, to_json(about))
    lines = [
        [row["name"], f"{row['p50']:.2f}", f"{row['cpu']:.2f}", f"{row['rmse']:.4f}"]
        for row in rows
    ]
    print(table(["", "p50 ms", "computing ms", "RMSE"], lines))


if __name__ == "__main__":
    main()
