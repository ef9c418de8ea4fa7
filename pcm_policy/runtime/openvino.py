"""OpenVINO: blocked layouts for every batch, and kernels for the instructions of the processor.

What it does unasked is switched off: on a processor with bfloat16 instructions it would compute in
that type, and it would tie its threads to the first cores, which other processes use as well.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from pcm_policy.optional import require
from pcm_policy.robot.engine import calling
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.graphs import require_exporter
from pcm_policy.runtime.recorded import Function

_PRECISION: Mapping[str, Mapping[str, str]] = {
    "float32": {"INFERENCE_PRECISION_HINT": "f32"},
    # every operation in the type that it was written in: the network alone is in bfloat16
    "bf16": {"EXECUTION_MODE_HINT": "ACCURACY", "INFERENCE_PRECISION_HINT": "dynamic"},
}


class OpenVino(Engine):
    """Compiled models on a CPU, in float32, or with the network in bfloat16."""

    package: ClassVar[str] = "openvino"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "bf16")

    def needed(self) -> None:
        """Refuse to work without OpenVINO and what torch's exporter takes."""
        require_exporter()
        require("openvino", "runtime.mode=openvino", "openvino")

    def open(self, path: Path, config: RuntimeConfig) -> Function:
        """Return what runs an ONNX file."""
        openvino = require("openvino", "runtime.mode=openvino", "openvino")
        core = openvino.Core()
        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": config.threads or torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        model = core.compile_model(
            core.read_model(str(path)), "CPU", {**options, **_PRECISION[config.precision]}
        )
        call = calling(model)

        def run(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return tuple(map(torch.from_numpy, call([value.numpy() for value in values])))

        return run
