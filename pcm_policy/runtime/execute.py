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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.runtime.onnx import Solve, compiled_solve, require_onnx
from pcm_policy.sampling.denoise import Network, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import SolveResult
from pcm_policy.solvers.before.base import combine, forcing
from pcm_policy.solvers.before.solve import SolverConfig
from pcm_policy.solvers.deadline import Deadline, synchronize

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
        network: nn.Module = policy.network
        if dtype is not None:
            network = LowPrecision(network, dtype).eval()
        self.network: Network = network
        if config.mode == "compile":
            self.network = Compiled(network)
        self._programs: dict[Any, Program] = {}
        self._lock = threading.Lock()

    def solve(
        self,
        obs: Tensor,
        solver: SolverConfig,
        noise: Noise,
        guess: Tensor | None = None,
        prefix: Prefix | None = None,
    ) -> SolveResult:
        """Solve as :meth:`DiffusionPolicy.solve` does; results are the caller's own."""
        if self.config.mode not in ("graph", "onnx"):
            # The compiler is not safe in threads; eager solves share nothing.
            guard: AbstractContextManager[Any]
            guard = self._lock if self.config.mode == "compile" else nullcontext()
            with guard:
                return self.policy.run(obs, solver, noise, guess, prefix, network=self.network)
        inputs = Inputs(obs, noise, guess, prefix)
        key = (solver, inputs.shape)
        with self._lock:
            if key not in self._programs:
                self._programs[key] = Program(
                    self.policy, self.network, solver, inputs, self.config.mode
                )
        # A graph's buffers are one solve's at a time; a session has none.
        with self._lock if self.config.mode == "graph" else nullcontext():
            return self._programs[key](inputs)


@dataclass(frozen=True)
class Inputs:
    """What one solve reads."""

    obs: Tensor
    noise: Noise
    guess: Tensor | None
    prefix: Prefix | None

    def tensors(self) -> list[Tensor | None]:
        """Return all of them, in a fixed order."""
        known = None if self.prefix is None else self.prefix.known
        values = None if self.prefix is None else self.prefix.values
        return [self.obs, self.noise.initial, self.noise.steps, self.guess, values, known]

    def present(self) -> list[Tensor]:
        """Return those that there are."""
        return [value for value in self.tensors() if value is not None]

    def filled(self, given: Sequence[Tensor]) -> "Inputs":
        """Return the same inputs with other tensors, in the order of :meth:`present`."""
        rest = iter(given)
        found = [None if value is None else next(rest) for value in self.tensors()]
        obs, initial, steps, guess, values, known = found
        assert obs is not None
        assert initial is not None
        prefix = self.prefix
        if prefix is not None:
            assert values is not None
            assert known is not None
            prefix = replace(prefix, values=values, known=known)
        return Inputs(obs, Noise(initial, steps), guess, prefix)

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a program is made for."""
        over = self.prefix is not None and self.prefix.overwrite_input
        shapes = tuple(None if t is None else tuple(t.shape) for t in self.tensors())
        return (over, *shapes)


class Program:
    """One solver for inputs of fixed shapes.

    Args:
        policy: the policy.
        network: what stands in for its base network.
        solver: how to solve.
        inputs: the first solve's inputs, for their shapes.
        mode: ``graph`` and ``onnx`` record; else the same functions run as they are.

    Raises:
        PcmError: a tolerance or deadline with a solver other than ``picard`` and plain ``pcm``.
    """

    def __init__(
        self,
        policy: "DiffusionPolicy",
        network: Network,
        solver: SolverConfig,
        inputs: Inputs,
        mode: str = "eager",
    ) -> None:
        self.policy, self.network, self.solver = policy, network, solver
        self.like = inputs
        self.fixed = solver.tolerance is None and solver.deadline_ms is None
        if solver.settle is not None:
            raise PcmError(
                f"runtime.mode={mode} records all rounds at once, and solver.settle asks after "
                "each: use runtime.mode=eager, or fixed solver.rounds"
            )
        if not self.fixed and (solver.method not in ("picard", "pcm") or solver.adaptive):
            raise PcmError(
                f"runtime.mode={mode} with a tolerance or a deadline takes solver.method=picard or "
                "pcm (not adaptive): use runtime.mode=eager, or fixed solver.rounds"
            )
        heads = sum(1 for s in solver.strengths if s > 0)
        self.opening = solver
        if not self.fixed:
            self.opening = replace(
                solver,
                rounds=max(1, heads),
                pcm_rounds=heads if solver.method == "pcm" else None,
                tolerance=None,
                deadline_ms=None,
                window=None,
            )
        self.counted = 0, 0  # rounds and evaluations of the opening
        given = inputs.present()
        self._first = _record(policy, self._open, given, mode)
        self._again: Solve | None = None
        if not self.fixed:
            states = self._first(given)[3]
            done = torch.zeros_like(states[0, :, 0, 0], dtype=torch.bool)
            self._again = _record(policy, self._round, [*given, states, done], mode)

    def __call__(self, inputs: Inputs) -> SolveResult:
        """Solve."""
        solver, device, given = self.solver, inputs.obs.device, inputs.present()
        stop = None
        if solver.deadline_ms is not None:
            stop = Deadline(solver.deadline_ms, lambda: synchronize(device))
        sample, bound, certified, states, residuals, chunk = self._first(given)
        (used, nfe), steps = self.counted, solver.sampler.steps
        if self._again is None:
            return SolveResult(sample, used, nfe, residuals, certified, bound, states, chunk)
        tolerance = solver.tolerance or 0.0
        history = list(residuals)
        base = 0 if self.opening.method == "pcm" else used
        done = certified if base else torch.zeros_like(certified)
        bound = bound if base else torch.full_like(bound, torch.inf)
        while base < steps and not bool((bound <= tolerance).all()):
            if (solver.rounds is not None and used >= solver.rounds) or (stop and stop()):
                break
            states, moved = self._again([*given, states, done])
            used, base, nfe = used + 1, base + 1, nfe + steps
            history.append(moved)
            bound = torch.where(done, bound, solver.safety * moved)
            bound = torch.zeros_like(bound) if base >= steps else bound
            done = bound <= tolerance
        bound = torch.where(states[-1].isfinite().flatten(1).all(dim=1), bound, torch.inf)
        chunk = self.policy.raw_chunk(states[-1])
        residuals = torch.stack(history)
        return SolveResult(
            states[-1], used, nfe, residuals, bound <= tolerance, bound, states, chunk
        )

    def _open(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        i = self.like.filled(given)
        found = self.policy.run(
            i.obs, self.opening, i.noise, i.guess, i.prefix, network=self.network
        )
        self.counted = found.rounds, found.nfe
        assert found.chunk is not None
        state = found.trajectory, found.residuals
        return found.sample, found.bound, found.certified, *state, found.chunk

    def _round(self, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One base round over all states; rows that are done stay."""
        *read, states, done = given
        i = self.like.filled(read)
        cond = self.policy.condition(i.obs, i.prefix)
        denoise = self.policy.denoiser(cond, self.solver.sampler, i.prefix)
        denoise = denoise.with_network(self.network)
        steps = denoise.sampler.steps
        predictions = denoise(states[:-1], slice(0, steps))
        swept = forcing(denoise.sampler, i.noise) + combine(denoise.sampler.M, predictions)
        swept = torch.where(done[:, None, None], states, swept)
        return swept, (swept - states).abs().amax(dim=(0, 2, 3))


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
