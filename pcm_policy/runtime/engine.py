"""Inference engines: solves that run on a CPU without Python between the kernels.

A recording is written as an ONNX graph of fixed shapes, in the operations that engines have fast
kernels for, opened by the engine, and compared with eager execution once.
"""

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.dispatch import Programs
from pcm_policy.runtime.graphs import write_onnx
from pcm_policy.runtime.inputs import Execute
from pcm_policy.runtime.mode import Mode
from pcm_policy.runtime.precision import TYPES, finest, in_precision
from pcm_policy.runtime.recorded import Function, Record

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

TOLERANCE = 1e-4
"""Largest difference to the eager chunk, in normalised action units, float32."""
EARLIER = 100.0
"""Factor on it for the states before the chunk: a network's rounding is enlarged by their noise,
and later rounds contract it."""


class Engine(Mode):
    """Programs of ONNX graphs; an engine says how a graph is opened."""

    own_threads: ClassVar[bool] = True
    precisions: ClassVar[tuple[str, ...]] = ("float32",)

    @abstractmethod
    def needed(self) -> None:
        """Refuse to work without the packages that this takes.

        Raises:
            PcmError: one of them is missing.
        """

    @abstractmethod
    def open(self, path: Path, config: RuntimeConfig) -> Function:
        """Return what runs an ONNX file; safe in threads, and its results are the caller's own."""

    def check(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        """Refuse other devices and types."""
        super().check(policy, config)
        known = " or ".join(self.precisions)
        fits = config.precision in self.precisions and policy.dtype == torch.float32
        if policy.device.type != "cpu" or not fits:
            raise PcmError(
                f"runtime.mode={config.mode} runs on a CPU, in {known}, a policy of float32: give "
                f"device=cpu and runtime.precision=float32, or use mode=graph on a GPU"
            )
        self.needed()

    def execute(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> Execute:
        """Return what executes a policy's solves."""
        network = in_precision(policy.network, config.precision)
        owner = policy if network is policy.network else nn.ModuleList([policy, network])
        return Programs(network, self.recorder(owner, config))

    def recorder(self, owner: nn.Module, config: RuntimeConfig) -> Record:
        """Return what makes a recording.

        Args:
            owner: the module whose weights the recorded functions read.
            config: precision and threads.
        """

        def record(function: Function, given: Sequence[Tensor]) -> Function:
            return self._recording(owner, function, given, config)

        return record

    def _recording(
        self, owner: nn.Module, function: Function, given: Sequence[Tensor], config: RuntimeConfig
    ) -> Function:
        """Record one function, every output of which depends on an input.

        Raises:
            PcmError: the engine cannot hold it, or its first output, a chunk ``(B, ...)`` or the
                states ``(N + 1, B, T, Da)`` that end at one, differs from eager execution.
        """
        self.needed()
        module = Traced(owner, function).eval()
        given = [value.contiguous() for value in given]
        with torch.inference_mode():
            want = [value.clone() for value in module(*given)]
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "solve.onnx")
                write_onnx(module, given, path)
                run = self.open(path, config)
        except Exception as error:  # whatever the exporters say
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise PcmError(
                f"runtime.mode={config.mode} cannot hold this solve ({reason}): use "
                "runtime.mode=eager"
            ) from error
        dtype = TYPES[config.precision] or torch.float32
        off, most = (run(given)[0] - want[0]).abs(), max(TOLERANCE, 4 * finest(dtype))
        chunk = off[-1] if off.dim() == 4 else off
        if not (float(chunk.max()) <= most and float(off.max()) <= EARLIER * most):
            raise PcmError(
                f"runtime.mode={config.mode}: {self.version()} differs from eager execution by "
                f"{float(chunk.max()):.1e}, states before the chunk by {float(off.max()):.1e}; "
                "use runtime.mode=eager"
            )
        return run


class Traced(nn.Module):
    """A function of tensors as a module that owns the weights it reads."""

    def __init__(self, owner: nn.Module, function: Function) -> None:
        super().__init__()
        self.owner, self.function = owner, function

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """Return the function's tensors."""
        return self.function(given)
