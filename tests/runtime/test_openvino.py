"""OpenVINO computes in the precision that is asked for, and says why where it cannot run."""

import sys
from typing import Any, get_args

import pytest
import torch

from pcm_policy import DiffusionPolicy, PcmError, RuntimeConfig
from pcm_policy.runtime.config import Name
from pcm_policy.runtime.inputs import eager
from pcm_policy.runtime.modes import MODES
from tests.builders import OBS_DIM, small_policy
from tests.exporting import needs_exporter


def test_every_mode_can_be_said() -> None:
    assert set(get_args(Name)) == set(MODES)
    for name in MODES:
        assert RuntimeConfig(name).mode == name  # type: ignore[arg-type]


def difference(policy: DiffusionPolicy, precision: Any) -> tuple[float, float]:
    """How far OpenVINO is from eager execution in the same precision, and in float32."""
    solver = policy.solver({"method": "sequential", "steps": 4})
    obs = torch.linspace(-1, 1, 4 * OBS_DIM).view(2, 2, OBS_DIM)
    noise = policy.draw_noise(2, solver.sampler, torch.Generator().manual_seed(0))
    exact = policy.solve(obs, solver, noise, execute=eager).sample
    policy.use(RuntimeConfig("eager", precision))
    same = policy.solve(obs, solver, noise).sample
    policy.use(RuntimeConfig("openvino", precision))
    found = policy.solve(obs, solver, noise).sample
    return float((found - same).abs().max()), float((found - exact).abs().max())


def test_float32_is_float32_and_bf16_is_the_network_alone() -> None:
    pytest.importorskip("openvino")
    needs_exporter()
    policy = small_policy()
    with torch.no_grad():  # so large that a type of 8 bits shows
        for weight in policy.network.parameters():
            weight.normal_(std=0.2, generator=torch.Generator().manual_seed(1))
    assert difference(policy, "float32")[0] < 1e-5
    same, exact = difference(policy, "bf16")
    assert 1e-4 < exact < 0.2
    assert same < 0.06


def test_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy()
    with pytest.raises(PcmError, match=r"mode=openvino runs on a CPU, in float32 or bf16"):
        policy.use(RuntimeConfig("openvino", "fp16"))
    with pytest.raises(PcmError, match=r"a policy of float32: give"):
        policy.double().use(RuntimeConfig("openvino"))
    needs_exporter()
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[openvino\]'"):
        small_policy().use(RuntimeConfig("openvino"))


def test_threads_are_checked() -> None:
    for wrong in (0, -1, 1.5, "2", True):
        with pytest.raises(PcmError, match=r"runtime\.threads"):
            RuntimeConfig(threads=wrong)  # type: ignore[arg-type]
