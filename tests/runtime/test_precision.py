"""Nothing is certified more finely than the network's type can settle."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pcm_policy
import pcm_policy.runtime
from pcm_policy import DiffusionPolicy, PcmError, RuntimeConfig
from pcm_policy.cli.main import main
from pcm_policy.runtime.precision import finest
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.step import STEPS, needs

OWN = [name for name in STEPS if STEPS.find(name).limits and not needs(STEPS.find(name)())]


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained("released/pusht_mlp")


@pytest.fixture(params=["bf16", "fp16"])
def half(policy: DiffusionPolicy, request: Any) -> Iterator[float]:
    """Execute in half precision; yield what it settles."""
    kept = policy.execute
    policy.use(RuntimeConfig(precision=request.param))
    yield finest({"bf16": torch.bfloat16, "fp16": torch.float16}[request.param])
    policy.use(kept)


@pytest.mark.parametrize("share", [0.0, 1e-3, 0.99])
def test_a_tolerance_below_the_precision_is_refused(
    policy: DiffusionPolicy, half: float, share: float
) -> None:
    obs = policy.held_out[:1]
    solver = policy.solver({"method": "picard", "tolerance": share * half})
    with pytest.raises(PcmError, match=f"settles no error below {half:g}; give that tolerance"):
        policy.solve(obs, solver)


@pytest.mark.parametrize("method", OWN)
def test_no_false_certificate_in_half_precision(
    policy: DiffusionPolicy, half: float, method: str
) -> None:
    obs = policy.held_out[:4]
    solver = policy.solver({"method": method, "tolerance": half})
    exact = policy.solver({"method": "sequential"})
    noise = policy.draw_noise(len(obs), solver.sampler, torch.Generator().manual_seed(0))
    found = policy.solve(obs, solver, noise)
    want = policy.solve(obs, exact, noise)
    error = (found.sample - want.sample).abs().amax(dim=(1, 2))
    assert (error[found.certified] <= solver.tolerance).all()
    assert (found.bound >= half).all()
    assert want.certified.all()


def test_what_is_exact_in_float32_is_not_certified_as_exact(
    policy: DiffusionPolicy, half: float
) -> None:
    solver = policy.solver({"method": "picard", "rounds": policy.config.sampler.steps})
    assert not policy.solve(policy.held_out[:2], solver).certified.any()


def test_a_policy_in_half_precision_is_told_the_same() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp").to(torch.bfloat16)
    obs = policy.held_out[:1].to(torch.bfloat16)
    with pytest.raises(PcmError, match="bfloat16 settles no error below"):
        policy.solve(obs, Solver.of("picard", tolerance=1e-3))


def test_a_config_is_enough_to_use_it(policy: DiffusionPolicy) -> None:
    assert pcm_policy.RuntimeConfig is pcm_policy.runtime.RuntimeConfig is RuntimeConfig
    with pytest.raises(PcmError, match="give a RuntimeConfig or a Runtime"):
        policy.use("graph")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = pcm_policy.runtime.nothing


def test_a_benchmark_says_so_before_it_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["policy=released/pusht_mlp", f"output_dir={tmp_path}", "runtime.precision=bf16"]
    with pytest.raises(SystemExit):
        main("bench", words)
    assert "error=0.001: a network in bfloat16 settles no error" in capsys.readouterr().err
