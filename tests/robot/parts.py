"""Policies in a robot's folder, each exported once."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pcm_policy import DiffusionPolicy
from pcm_policy.control import ControlSettings
from pcm_policy.export import example, export, export_robot
from pcm_policy.robot import RobotPolicy, load
from tests.seeing import EYES, make

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = {"unet1d": 5e-5, "pusht_mlp": 2e-5}
"""Networks that multiply what rounding leaves, the MLP where known actions do not fit the
observation; else 1e-5, in normalised action units."""
LIMITS = ControlSettings(low=(-1e3, -1e3), high=(1e3, 1e3), max_step=1e6)


def policy_of(name: str) -> DiffusionPolicy:
    golden = GOLDEN / name
    return DiffusionPolicy.from_pretrained(golden if golden.is_dir() else f"released/{name}")


@cache
def exported(name: str, **settings: Any) -> tuple[DiffusionPolicy, RobotPolicy, Path]:
    """Return a policy, the same on a robot, and the robot's folder."""
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    torch.set_num_threads(1)
    policy, folder = policy_of(name), Path(mkdtemp(), "robot")
    values = dict(settings)
    control = values.pop("control", LIMITS if policy.config.action_dim == 2 else None)
    robot, difference = export_robot(policy, policy.solver(values), folder, control)
    assert difference < CLOSE.get(name, 1e-5)
    return policy, robot, folder


@cache
def seeing_robot(
    eyes: str, engine: Any = "onnxruntime", **settings: Any
) -> tuple[DiffusionPolicy, RobotPolicy, Path]:
    """Return a policy with cameras, the same on a robot, and the robot's folder.

    Args:
        eyes: which of ``EYES`` it has.
        engine: of the robot.
        settings: of the solver.
    """
    if engine != "onnxruntime":
        policy, _, folder = seeing_robot(eyes, **settings)
        pytest.importorskip(engine, reason=f"{engine} is not installed")
        return policy, load(folder, engine=engine), folder
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    torch.set_num_threads(1)
    policy, folder = make(EYES[eyes], sharp=1.0), Path(mkdtemp())
    solver = policy.solver(settings)
    given = example(policy, solver, 1, 0)
    _, found = export(policy, solver, folder, ["robot"], given, 1)
    assert found["robot"].difference < 1e-5
    return policy, load(folder / "robot"), folder / "robot"


def observation(policy: DiffusionPolicy, seed: int) -> NDArray[np.float32]:
    """Return one ``(To, Do)``: of those that came with the policy, or within training's range."""
    if policy.held_out is not None:
        kept: NDArray[np.float32] = policy.held_out[seed % len(policy.held_out)].numpy()
        return kept
    low, high = (v.numpy().astype(np.float64) for v in _range(policy))
    share = np.random.default_rng(seed).uniform(0.2, 0.8, (policy.config.obs_steps, len(low)))
    return (low + share * (high - low)).astype(np.float32)


def _range(policy: DiffusionPolicy) -> tuple[torch.Tensor, torch.Tensor]:
    normalizer = policy.obs_normalizer
    if bool(normalizer.low.isfinite().all()):
        return normalizer.low, normalizer.high
    one = torch.ones(policy.config.obs_dim)
    return normalizer.unnormalize(-one), normalizer.unnormalize(one)
