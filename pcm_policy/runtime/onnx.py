"""ONNX Runtime: it packs weights ahead, which matters most for the few rows of a round."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pcm_policy.optional import require
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.graphs import require_exporter, write_program
from pcm_policy.runtime.recorded import Function


class Onnx(Engine):
    """Sessions on a CPU, in float32."""

    package: ClassVar[str] = "onnxruntime"

    def needed(self) -> None:
        """Refuse to work without ONNX Runtime and what torch's exporter takes."""
        require_exporter()
        require("onnxruntime", "a solve in ONNX", "export")

    def open(self, path: Path, config: RuntimeConfig) -> Function:
        """Return what runs an ONNX file."""
        session = open_session(path, config.threads)
        names = [one.name for one in session.get_inputs()]

        def run(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
            found = [value.contiguous() for value in values]
            return run_session(session, dict(zip(names, found, strict=True)))

        return run


def open_session(path: Path, threads: int | None = None) -> Any:
    """Open an ONNX file, with as many threads as torch has unless a number is given.

    Raises:
        PcmError: ONNX Runtime is not installed.
    """
    onnxruntime = require("onnxruntime", "a solve in ONNX", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options)


def onnx_session(program: ExportedProgram, path: Path) -> Any:
    """Write an exported program as ONNX and open it.

    Raises:
        PcmError: ONNX is not installed.
    """
    write_program(program, path)
    return open_session(path)


def run_session(session: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Call a session; returns its outputs in order."""
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    return tuple(torch.from_numpy(value) for value in found)
