"""Solves that ONNX Runtime executes: the CPU's counterpart of a CUDA graph.

Nothing of Python is left between the kernels, and ONNX Runtime packs the weights ahead, which
matters most for the few rows of a parallel round.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pcm_policy.errors import PcmError
from pcm_policy.optional import require
from pcm_policy.runtime.lowered import Lowered

TOLERANCE = 1e-4
"""Largest difference to the eager chunk, in normalised action units, float32."""
Solve = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]


def require_onnx() -> Any:
    """Return the module ``onnxruntime``.

    Raises:
        PcmError: it, or what exporting takes, is not installed.
    """
    require("onnxscript", "torch's export to ONNX", "export")
    return require("onnxruntime", "a solve in ONNX", "export")


def onnx_session(program: ExportedProgram, path: Path) -> Any:
    """Write an exported program as ONNX and open it, with as many threads as torch has.

    Raises:
        PcmError: ONNX is not installed.
    """
    onnxruntime = require_onnx()
    with catch_warnings(), redirect_stdout(StringIO()):
        simplefilter("ignore")
        with torch.no_grad():  # what a solve keeps was made in inference mode
            written = torch.onnx.export(program, dynamo=True, verbose=False)
        assert written is not None
        written.save(str(path))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(str(path), options)


def run_session(session: Any, given: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Call a session; returns its outputs in order."""
    found = session.run(None, {name: value.numpy() for name, value in given.items()})
    return tuple(torch.from_numpy(value) for value in found)


class _Traced(nn.Module):
    """A function of tensors as a module that owns the weights it reads."""

    def __init__(self, owner: nn.Module, function: Solve) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        return self.function(given)


def compiled_solve(owner: nn.Module, function: Solve, given: Sequence[Tensor]) -> Solve:
    """Make an ONNX session of a function, for inputs of the shapes of these.

    Args:
        owner: the module whose weights ``function`` reads.
        function: maps tensors to tensors; every output depends on an input. The first output is
            compared with eager execution, once, on ``given``.
        given: example inputs.

    Returns:
        What to call in place of ``function``; safe in threads.

    Raises:
        PcmError: ONNX is not installed, or its result differs from eager execution.
    """
    require_onnx()
    module = _Traced(owner, function).eval()
    given = [value.contiguous() for value in given]
    with torch.inference_mode():
        want = [value.clone() for value in module(*given)]
    try:
        with torch.no_grad(), catch_warnings(), tempfile.TemporaryDirectory() as folder:
            simplefilter("ignore")
            program = torch.export.export(Lowered(module), tuple(given), strict=False)
            session = onnx_session(program, Path(folder, "solve.onnx"))
    except Exception as error:  # whatever the exporters say
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PcmError(
            f"runtime.mode=onnx cannot hold this solve ({reason}): use runtime.mode=eager"
        ) from error
    names = [one.name for one in session.get_inputs()]

    def call(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        found = [value.contiguous() for value in values]
        return run_session(session, dict(zip(names, found, strict=True)))

    difference = float((call(given)[0] - want[0]).abs().max())
    if not difference <= TOLERANCE:
        raise PcmError(
            f"runtime.mode=onnx: ONNX Runtime differs from eager execution by {difference:.1e}; "
            "use runtime.mode=eager"
        )
    return call
