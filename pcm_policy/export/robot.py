"""A policy as a folder that :mod:`pcm_policy.robot` executes without torch."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pcm_policy.control.settings import ControlSettings
from pcm_policy.draws import Draws
from pcm_policy.errors import PcmError
from pcm_policy.export.cameras import Look, look, write_encoder
from pcm_policy.export.graphs import Tracer, check_recordable, windowed
from pcm_policy.files import atomic_folder, to_json
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.robot.example import Example
from pcm_policy.robot.folder import EXAMPLE, MIXING, NAME, WEIGHTS, Package, digest, used_files
from pcm_policy.robot.opened import TOLERANCE
from pcm_policy.robot.policy import RobotPolicy, load
from pcm_policy.runtime.engine import Traced
from pcm_policy.runtime.graphs import require_exporter, write_onnx
from pcm_policy.runtime.inputs import Inputs
from pcm_policy.runtime.recorded import Function
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.serving.planner import describe
from pcm_policy.solvers.registry import Solver, flat

KNOWN = 2
"""Known actions of the example."""
LEAST_BYTES, ALIGNED = 1024, 4096
"""Weights of fewer bytes stay in their graph; the others begin at a page of the file."""


def export_robot(
    policy: DiffusionPolicy,
    solver: Solver,
    folder: Path,
    control: ControlSettings | None = None,
    seed: int = 0,
) -> tuple[RobotPolicy, float]:
    """Write a robot's folder, load it again and compare it with the policy.

    Args:
        policy: on the CPU, float32.
        solver: how it solves.
        folder: is replaced.
        control: settings of the robot's controller, with the limits of its commands.
        seed: of the example's noise.

    Returns:
        The loaded folder, and its largest difference to eager execution, normalised action units.

    Raises:
        PcmError: a policy or a solver that no folder can hold, a missing package, settings that do
            not fit the policy, or a difference above :data:`~pcm_policy.robot.opened.TOLERANCE`.
    """
    require_exporter()
    control, solver = control or ControlSettings(), policy.complete(solver)
    if policy.device.type != "cpu" or policy.dtype != torch.float32:
        raise PcmError("formats=[robot]: give a policy on the CPU in float32")
    control.check(describe(policy))
    check_recordable(solver)
    with atomic_folder(folder) as scratch:
        _write(policy, solver, scratch, control, seed)
        robot = load(scratch)
        difference = _difference(policy, solver, robot, seed)
        if not difference <= TOLERANCE:
            raise PcmError(
                f"{folder} would differ from the policy by {difference:.1e}: it is not written"
            )
    return load(folder), difference


def _write(
    policy: DiffusionPolicy, solver: Solver, folder: Path, control: ControlSettings, seed: int
) -> None:
    spec, sampler = describe(policy), policy.sampler(solver.sampler)
    seen = look(policy, seed)
    given = _inputs(policy, solver, seen.obs, seed, control.prefix_input)
    tracer = Tracer(policy, solver, folder, lambda *a: _write_onnx(policy, *a))
    programs = {"plain": tracer.program(given, cold=True)}
    if windowed(solver.step):
        programs["warm"] = tracer.program(given, cold=False, prefix="warm_")
    cameras, vision = None, policy.vision
    if vision is not None:
        cameras = write_encoder(policy, vision, folder, lambda *a: _write_onnx(vision, *a))
    _share_weights(folder)
    np.save(folder / MIXING, sampler.M.numpy(), allow_pickle=False)
    _example(policy, solver, given, seen).write(folder / EXAMPLE)
    package = Package(
        spec=spec,
        control=control,
        chunk=policy.config.chunk_shape,
        steps=sampler.steps,
        stochastic=sampler.stochastic,
        starts=solver.uses_head and policy.head is not None and policy.head.starts,
        solver=solver.label,
        settings=flat(solver),
        weights=fingerprint(policy),
        programs=programs,
        cameras=cameras,
        files={name: digest(folder / name) for name in sorted(used_files(programs, cameras))},
        versions=_versions(),
    )
    (folder / NAME).write_text(to_json(package.to_dict()), encoding="utf-8")


def _write_onnx(owner: nn.Module, function: Function, given: Sequence[Tensor], path: Path) -> None:
    try:
        values = [one.contiguous() for one in given]
        write_onnx(Traced(owner, function).eval(), values, path)
    except Exception as error:  # whatever the exporters say
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PcmError(f"formats=[robot] cannot hold this policy ({reason})") from error


def _share_weights(folder: Path) -> None:
    """Move the weights of all graphs into one file, each once: engines map it into memory."""
    onnx, offsets = require_exporter(), dict[bytes, int]()
    with (folder / WEIGHTS).open("wb") as file:
        for path in sorted(folder.glob("*.onnx")):
            model = onnx.load(str(path))
            for weight in model.graph.initializer:
                data = weight.raw_data
                if len(data) < LEAST_BYTES:
                    continue
                key = hashlib.sha256(data).digest()
                if key not in offsets:
                    file.write(bytes(-file.tell() % ALIGNED))
                    offsets[key] = file.tell()
                    file.write(data)
                at = offsets[key]
                onnx.external_data_helper.set_external_data(weight, WEIGHTS, at, len(data))
                weight.ClearField("raw_data")
            onnx.save(model, str(path))


def _inputs(policy: DiffusionPolicy, solver: Solver, obs: Tensor, seed: int, shown: bool) -> Inputs:
    """Return a solve's inputs: an observation, noise, no guess, known raw actions."""
    config, sampler = policy.config, policy.sampler(solver.sampler)
    generator = torch.Generator().manual_seed(seed)
    chunk = (1, *config.chunk_shape)
    noise = Noise(torch.randn(chunk, generator=generator))
    if sampler.stochastic:
        steps = torch.randn(sampler.steps, *chunk, generator=generator)
        noise = Noise(noise.initial, steps)
    guess = torch.full((sampler.steps, *chunk), torch.nan)
    values = torch.zeros(1, config.horizon, config.action_dim)
    known = torch.zeros(1, config.horizon, 1, dtype=torch.bool)
    first = config.obs_steps - 1
    some = slice(first, first + min(KNOWN, config.horizon - first))
    middle = policy.action_normalizer.unnormalize(torch.zeros(config.action_dim))
    values[:, some], known[:, some] = middle, True
    return Inputs(obs, noise, guess, Prefix(values, known, shown))


@torch.no_grad()
def _example(policy: DiffusionPolicy, solver: Solver, given: Inputs, seen: Look) -> Example:
    """Return the inputs as the robot takes them, and the policy's chunk."""
    assert given.prefix is not None
    ahead = given.prefix.values[:, given.prefix.known[0, :, 0]]
    prefix = policy.known_prefix(ahead.numpy(), given.prefix.overwrite_input)
    found = policy.solve(given.obs, untimed(solver), given.noise, None, prefix)
    assert found.chunk is not None
    return Example(
        state=seen.state.numpy(),
        obs=seen.obs.numpy(),
        noise=as_draws(given.noise),
        prefix=ahead[0].numpy(),
        chunk=found.chunk.numpy(),
        scale=policy.action_normalizer.scale.numpy(),
        images=seen.images,
    )


@torch.no_grad()
def _difference(policy: DiffusionPolicy, solver: Solver, robot: RobotPolicy, seed: int) -> float:
    """Return the largest difference of three solves: plain, from a guess, with known actions."""
    seen = look(policy, seed + 1)
    given = _inputs(policy, solver, seen.obs, seed + 1, robot.control.prefix_input)
    assert given.prefix is not None
    ahead = given.prefix.values[:, given.prefix.known[0, :, 0]]
    prefix = policy.known_prefix(ahead.numpy(), given.prefix.overwrite_input)
    noise = as_draws(given.noise)
    features = [robot.sight.encode(seen.images)] * len(seen.state) if seen.images else []
    obs = robot.sight.join(seen.state.numpy(), features)
    guess, worst = torch.zeros_like(given.noise.initial), 0.0
    none = np.zeros((0, policy.config.action_dim), np.float32)
    for start, fixed, known in ((None, None, none), (guess, None, none), (None, prefix, ahead[0])):
        wanted = policy.solve(given.obs, untimed(solver), given.noise, start, fixed).chunk
        first = None if start is None else start.expand(robot.package.steps, *start.shape).numpy()
        found = robot.solve(obs, noise, first, np.asarray(known), timed=False).chunk
        assert wanted is not None
        off = (torch.from_numpy(found) - wanted) * policy.action_normalizer.scale
        worst = max(worst, float(off.abs().max()))
    return worst


def as_draws(noise: Noise) -> Draws:
    """Return a solve's noise as a robot takes it."""
    steps = None if noise.steps is None else noise.steps.numpy()
    return Draws(noise.initial.numpy(), steps)


def untimed(solver: Solver) -> Solver:
    """Return the solver that does the same without a look at the clock."""
    return replace(solver, deadline_ms=None)


def _versions() -> dict[str, str]:
    found = {name: importlib.metadata.version(name) for name in ("torch", "onnxscript", "numpy")}
    return {"python": platform.python_version(), **found}
