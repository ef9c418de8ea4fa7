"""How a solve is executed: eagerly, with a compiled network, as a CUDA graph, by ONNX Runtime.

``graph`` captures the whole fixed-round solve, from raw observations to the chunk, once per solver,
batch size and kind of input; a replay launches nothing from Python and reads nothing
back. With a tolerance or a deadline, the first rounds are one graph and each further base round is
a replay of another; the host looks at the bound, or the clock, in between. The same programs run
uncaptured on any device, which is how they are tested without a GPU. ``onnx`` is the same on a CPU:
a session in place of every graph.
"""

import copy
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.runtime.inputs import Assemble, Inputs
from pcm_policy.runtime.onnx import Solve, compiled_solve, require_onnx
from pcm_policy.runtime.precision import certified, require
from pcm_policy.runtime.recorded import Function, Recorded
from pcm_policy.sampling.denoise import Network
from pcm_policy.solvers.deadline import Deadline, synchronize
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.solvers.system import Iterate, System

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

Mode = Literal["eager", "compile", "graph", "onnx"]
Precision = Literal["float32", "bf16", "fp16"]
TYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
WARMUP = 3


@dataclass(frozen=True)
class RuntimeConfig:
    """How solves are executed.

    Attributes:
        mode: ``eager``; ``compile``, torch.compile on the network; ``graph``, CUDA graphs;
            ``onnx``, ONNX Runtime on a CPU.
        precision: of the base network alone. States, sums and the head stay as they are. float32
            leaves the weights in the policy's own type.
        tf32: let float32 matrix products and convolutions use TF32 (CUDA), for the whole process.

    Example:
        >>> from pcm_policy import DiffusionPolicy
        >>> policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        >>> policy.use(RuntimeConfig(precision="bf16"))
    """

    mode: Mode = "eager"
    precision: Precision = "float32"
    tf32: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("mode", get_args(Mode)), ("precision", get_args(Precision))):
            if getattr(self, name) not in allowed:
                raise PcmError(
                    f"runtime.{name}={getattr(self, name)!r}: use one of {', '.join(allowed)}"
                )


class LowPrecision(nn.Module):
    """A copy of a network in another type, with inputs and outputs in the caller's."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network: Any = copy.deepcopy(network).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)``, ``(B,)`` and ``(B, C)`` to ``(B, T, Da)`` in the type of ``x``."""
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(...)`` and ``(..., C)`` to ``(..., E)`` in this network's type."""
        encoded: Tensor = self.network.encode(t, cond.to(self.dtype))
        return encoded

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        """Map ``(B, T, Da)`` and ``(B, E)`` to ``(B, T, Da)`` in the type of ``x``."""
        output: Tensor = self.network.decode(x.to(self.dtype), encoded)
        return output.to(x.dtype)


class Compiled(nn.Module):
    """A network whose calls, and the part of them that every round repeats, are compiled."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.encode = network, network.encode
        self._call = torch.compile(network, dynamic=False)
        self.decode = torch.compile(network.decode, dynamic=False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map ``(B, T, Da)``, ``(B,)`` and ``(B, C)`` to ``(B, T, Da)``."""
        output: Tensor = self._call(x, t, cond)  # type: ignore[no-untyped-call]
        return output


class Runtime:
    """Executes one policy's solves; may be called from several threads.

    Weights are taken when it is made: make another after changing them.

    Args:
        policy: the policy, on its device.
        config: how.

    Raises:
        PcmError: graphs without a CUDA device, or another precision with a head that changes the
            network's weights.
    """

    def __init__(self, policy: "DiffusionPolicy", config: RuntimeConfig) -> None:
        cuda = policy.device.type == "cuda"
        if config.mode == "graph" and not cuda:
            raise PcmError("runtime.mode=graph needs a CUDA device: use mode=eager or mode=onnx")
        if config.mode == "onnx":
            if policy.device.type != "cpu" or config.precision != "float32":
                raise PcmError(
                    "runtime.mode=onnx runs on a CPU in float32: give device=cpu and "
                    "runtime.precision=float32, or use mode=graph on a GPU"
                )
            require_onnx()
        dtype = TYPES[config.precision]
        head = policy.config.head
        if dtype is not None and head is not None and head.name == "lora":
            raise PcmError(
                f"runtime.precision={config.precision}: a LoRA head needs the base's own type"
            )
        if cuda:
            torch.backends.cuda.matmul.allow_tf32 = config.tf32
            torch.backends.cudnn.allow_tf32 = config.tf32
        self.policy, self.config = policy, config
        self._made: Network | None = None
        self._programs: dict[Any, Program] = {}
        self._lock = threading.Lock()

    @property
    def network(self) -> Network:
        """What stands in for the policy's network."""
        if self._made is None:
            network, dtype = self.policy.network, TYPES[self.config.precision]
            if dtype is not None:
                network = LowPrecision(network, dtype).eval()
            self._made = Compiled(network) if self.config.mode == "compile" else network
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process or a copy cannot have: programs and locks."""
        return {"policy": self.policy, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make them again, when they are needed."""
        self.__dict__.update(state, _made=None, _programs={}, _lock=threading.Lock())

    def __call__(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        """Solve as :func:`~pcm_policy.runtime.inputs.eager` does; results are the caller's own.

        Raises:
            PcmError: a tolerance that the precision cannot settle.
        """
        dtype = TYPES[self.config.precision] or given.noise.initial.dtype
        require(solver.tolerance, dtype)
        return certified(self._solved(assemble, given, solver), solver, dtype)

    def _solved(self, assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
        if self.config.mode not in ("graph", "onnx"):
            # The compiler is not safe in threads; eager solves share nothing.
            guard: AbstractContextManager[Any]
            guard = self._lock if self.config.mode == "compile" else nullcontext()
            with guard:
                return solver(*assemble(given, solver, self.network))
        key = (solver, given.shape)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = Program(
                    self.policy, self.network, solver, given, self.config.mode
                )
        # A graph's buffers are one solve's at a time; a session has none.
        with self._lock if self.config.mode == "graph" else nullcontext():
            return self._programs[key](given)


class Program:
    """One solver, recorded for inputs of fixed shapes.

    Args:
        policy: the policy.
        network: what stands in for its base network.
        solver: how to solve.
        inputs: the first solve's inputs, for their shapes.
        mode: ``graph`` and ``onnx`` record; else the same functions run as they are.
    """

    def __init__(
        self,
        policy: "DiffusionPolicy",
        network: Network,
        solver: Solver,
        inputs: Inputs,
        mode: str = "eager",
    ) -> None:
        def begin(given: Sequence[Tensor]) -> tuple[System, Iterate]:
            return policy.assemble(inputs.filled(given), solver, network)

        def record(function: Function, given: Sequence[Tensor]) -> Function:
            return _record(policy, function, given, mode)

        self.deadline_ms = solver.deadline_ms
        timed = solver.deadline_ms is not None
        self._recorded = Recorded(begin, solver.step, solver.stop, record, timed=timed)

    def __call__(self, inputs: Inputs) -> SolveResult:
        """Solve."""
        finish = partial(synchronize, inputs.obs.device)
        clock = None if self.deadline_ms is None else partial(Deadline, self.deadline_ms, finish)
        return self._recorded(inputs.present(), clock)


def _record(
    policy: "DiffusionPolicy", function: Solve, given: Sequence[Tensor], mode: str
) -> Solve:
    """Return what does as ``function`` does for tensors of the shapes of these."""
    if mode == "onnx":
        return compiled_solve(policy, function, given)
    if mode != "graph":
        return function
    static = [value.clone() for value in given]
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARMUP):
            function(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        outputs = function(static)

    def replay(values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for mine, theirs in zip(static, values, strict=True):
            mine.copy_(theirs, non_blocking=True)
        graph.replay()
        return tuple(value.clone() for value in outputs)  # the caller's own

    return replay
