"""A solve as packages: one file each that runs without this package, or a robot's folder.

In the files observation, noise and chunk go in and out; normalisers, every round and the head are
inside. The observation of a policy with cameras has features in place of images. What depends on
data stays outside: the number of rounds is fixed, observations are not checked and actions not
limited. The robot's folder (:mod:`pcm_policy.robot`) does all of that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from warnings import catch_warnings, simplefilter

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.export.robot import as_draws, export_robot
from pcm_policy.measure.timing import time_call
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.engine import TOLERANCE
from pcm_policy.runtime.inputs import Inputs, eager
from pcm_policy.runtime.onnx import onnx_session, run_session
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.step import needs
from pcm_policy.solvers.stops import Rounds

Format = Literal["export", "aoti", "onnx", "robot"]
FILES: dict[str, str] = {
    "export": "policy.pt2",
    "aoti": "policy_aoti.pt2",
    "onnx": "policy.onnx",
    "robot": "robot",
}
_INDUCTOR = {"inplace_buffers": False}
"""Inductor of torch 2.13 reuses a buffer that is still read (a case: github.com/pytorch/pytorch
issue 183575): two PCM rounds of ``released/pusht`` came out 135 pixels off with such buffers and
0.0002 without. For such reasons every package is compared with eager execution."""
Call = Callable[[Mapping[str, Tensor]], Tensor]


class FixedSolve(nn.Module):
    """``forward(obs, initial[, steps])``: raw observations and noise to the raw chunk.

    Args:
        policy: the policy.
        solver: a fixed number of rounds, see :func:`fixed`.
    """

    def __init__(self, policy: DiffusionPolicy, solver: Solver) -> None:
        super().__init__()
        self.policy, self.solver = policy, fixed(solver)

    def forward(self, obs: Tensor, initial: Tensor, steps: Tensor | None = None) -> Tensor:
        """Map ``(B, To, Do)``, ``(B, T, Da)`` and ``(N, B, T, Da)`` to ``(B, T, Da)``."""
        given = Inputs(obs, Noise(initial, steps))
        return self.policy.raw_chunk(eager(self.policy.assemble, given, self.solver).sample)


def fixed(solver: Solver) -> Solver:
    """Return a solver whose rounds do not depend on data.

    Raises:
        PcmError: it stops at a tolerance or a deadline, when it settles, or adapts.
    """
    if type(solver.stop) is not Rounds or solver.deadline_ms is not None:
        raise PcmError(
            f"solver {solver.label} stops when its data say so: a package has a fixed number of "
            "rounds; give solver.rounds and no tolerance, settle or deadline"
        )
    if "jacobian" in needs(solver.step) and not solver.uses_head:
        raise PcmError("solver=newton keeps a Jacobian of its own: use picard or anderson")
    return solver


@dataclass(frozen=True)
class Exported:
    """One package.

    Attributes:
        file: its name.
        difference: largest difference to the eager chunk, normalised action units.
        p50_ms: median of the calls, one after the other.
        p95_ms: 95th percentile.
    """

    file: str
    difference: float
    p50_ms: float
    p95_ms: float


def example(policy: DiffusionPolicy, solver: Solver, batch: int, seed: int) -> dict[str, Tensor]:
    """Return inputs: held-out observations, or some of the training range, and noise."""
    config, generator = policy.config, torch.Generator().manual_seed(seed)
    if policy.held_out is not None and len(policy.held_out) >= batch:
        obs = policy.held_out[:batch].clone()
    else:
        shape = (batch, config.obs_steps, config.obs_dim)
        obs = policy.obs_normalizer.unnormalize(2 * torch.rand(shape, generator=generator) - 1)
    chunk = (batch, *config.chunk_shape)
    found = {"obs": obs, "initial": torch.randn(chunk, generator=generator)}
    sampler = policy.sampler(solver.sampler)
    if sampler.stochastic:
        found["steps"] = torch.randn(sampler.steps, *chunk, generator=generator)
    return found


def export(
    policy: DiffusionPolicy,
    solver: Solver,
    folder: Path,
    formats: Sequence[str],
    inputs: Mapping[str, Tensor],
    calls: int = 50,
    control: ControlSettings | None = None,
) -> tuple[Tensor, dict[str, Exported]]:
    """Write packages, load each again with its own loader and compare it with eager execution.

    Args:
        policy: on the CPU, float32.
        solver: a fixed number of rounds; any one for ``robot``.
        folder: gets one file or folder for each format, see ``FILES``.
        formats: ``export`` (torch.export), ``aoti`` (AOTInductor), ``onnx`` and ``robot``, see
            :func:`~pcm_policy.export.robot.export_robot`.
        inputs: of :func:`example`; the packages keep their shapes.
        calls: timed calls of each.
        control: settings of the robot's controller.

    Returns:
        The eager chunk, and by format what was written; ``eager`` is the time without a package.

    Raises:
        PcmError: a solver without fixed rounds, an unknown format, a missing package or compiler,
            or a difference above ``TOLERANCE``.
    """
    unknown = set(formats) - set(get_args(Format))
    if unknown:
        raise PcmError(f"formats has {sorted(unknown)[0]!r}: use {', '.join(get_args(Format))}")
    files = [name for name in formats if name != "robot"]
    if files:
        fixed(solver)
    if "robot" in formats and len(inputs["obs"]) != 1:
        raise PcmError(f"formats=[robot] with batch={len(inputs['obs'])}: a robot's batch is 1")
    noise = Noise(inputs["initial"], inputs.get("steps"))

    def solved(given: Mapping[str, Tensor]) -> Tensor:
        chunk = policy.solve(given["obs"], solver, noise, execute=eager).chunk
        assert chunk is not None
        return chunk

    chunk = solved(inputs).clone()
    found = {"eager": Exported("", 0.0, *_time(solved, inputs, calls))}
    if files:
        found |= _files(policy, solver, folder, files, inputs, chunk, calls)
    if "robot" in formats:
        robot, off = export_robot(policy, solver, folder / FILES["robot"], control)
        obs, drawn = inputs["obs"].numpy(), as_draws(noise)
        none = np.zeros((0, policy.config.action_dim), np.float32)
        spent = time_call(lambda _: robot.solve(obs, drawn, None, none), calls)
        found["robot"] = Exported(FILES["robot"], off, spent["p50"], spent["p95"])
    return chunk, found


def _files(
    policy: DiffusionPolicy,
    solver: Solver,
    folder: Path,
    formats: Sequence[str],
    inputs: Mapping[str, Tensor],
    chunk: Tensor,
    calls: int,
) -> dict[str, Exported]:
    """Write the packages that are one file each."""
    module, values = FixedSolve(policy, solver).eval(), tuple(inputs.values())
    scale, found = policy.action_normalizer.scale, {}
    with torch.no_grad():
        program = torch.export.export(module, values, strict=False)
    for name in formats:
        path = folder / FILES[name]
        call = _WRITE[name](program, path)
        try:
            with torch.no_grad():  # a program's loop has no gradients
                difference = float(((call(inputs) - chunk) * scale).abs().max())
        except BaseException:
            path.unlink()  # nothing that was not compared stays
            raise
        if not difference <= TOLERANCE:
            path.unlink()
            raise PcmError(
                f"{path} differs from eager execution by {difference:.1e}: do not use it"
            )
        found[name] = Exported(path.name, difference, *_time(call, inputs, calls))
    return found


def _export(program: Any, path: Path) -> Call:
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda given: loaded(*given.values())


def _aoti(program: Any, path: Path) -> Call:
    try:
        with catch_warnings():
            simplefilter("ignore")
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(path), inductor_configs=_INDUCTOR
            )
    except Exception as error:  # whatever the compilers say
        raise PcmError(
            f"AOTInductor cannot build {path.name} ({str(error).splitlines()[0]}): it needs a C++ "
            "compiler; formats=[export,onnx] leaves it out"
        ) from error
    loaded = torch._inductor.aoti_load_package(str(path))
    return lambda given: loaded(*given.values())


def _onnx(program: ExportedProgram, path: Path) -> Call:
    session = onnx_session(program, path)
    return lambda given: run_session(session, given)[0]


_WRITE: dict[str, Callable[[Any, Path], Call]] = {
    "export": _export,
    "aoti": _aoti,
    "onnx": _onnx,
}


@torch.inference_mode()
def _time(call: Call, inputs: Mapping[str, Tensor], calls: int) -> tuple[float, float]:
    spent = time_call(lambda _: call(inputs), calls)
    return spent["p50"], spent["p95"]
