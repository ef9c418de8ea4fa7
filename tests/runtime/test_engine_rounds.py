"""Inference engines run every solver and every stop, in the rounds of the eager solve."""

from typing import Any

import pytest
import torch

from pcm_policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.inputs import eager
from tests.builders import OBS_DIM, small_policy

SOLVERS: list[dict[str, Any]] = [  # two to four recordings each, which take seconds
    {"method": "anderson", "tolerance": 1e-2, "rounds": 3},
    {"method": "newton", "tolerance": 1e-2, "rounds": 2},
    {"method": "coarse", "then": "picard", "tolerance": 1e-2, "rounds": 3},
    {"method": "adaptive", "tolerance": 1e-2, "rounds": 2},
    {"method": "pcm", "rounds": 2, "settle": 1e-2},
    {"method": "subspace", "modes": 2, "nodes": 3, "tolerance": 1e-2, "rounds": 3},
]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    found = small_policy("mlp", "window")
    found.held_out = torch.rand(8, 2, OBS_DIM, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["onnx", "openvino"])
@pytest.mark.parametrize("values", SOLVERS, ids=str)
def test_same_rounds_and_states(policy: DiffusionPolicy, values: dict[str, Any], mode: Any) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(mode, mode))
    solver = policy.solver(values)
    runtime = Runtime(policy, RuntimeConfig(mode=mode))
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):  # the second solve by what was recorded for the first
        obs = 2 * torch.rand(3, 2, OBS_DIM, generator=generator) - 1
        noise = policy.draw_noise(3, solver.sampler, generator)
        found = policy.solve(obs, solver, noise, execute=runtime)
        want = policy.solve(obs, solver, noise, execute=eager)
        assert (found.rounds, found.ended) == (want.rounds, want.ended)
        torch.testing.assert_close(found.trajectory, want.trajectory, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.residuals, want.residuals, rtol=0, atol=1e-5)
        assert torch.equal(found.certified, want.certified)
        if want.row_rounds is not None:
            assert torch.equal(found.row_rounds, want.row_rounds)
