"""Samplers as the command line names them, and flows of any setting under parallel solvers."""

from dataclasses import asdict, fields, replace
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing
from pcm_policy.solvers.registry import read
from pcm_policy.solvers.step import Known
from tests.problems import F64, distance, problem
from tests.solving import anderson, coarse, paradigms, picard, sequential


def named(own: SamplerConfig, *overrides: str) -> SamplerConfig:
    """The sampler that a command line asks of a policy whose own one is ``own``."""
    flat = compose("eval", [*overrides, "output_dir=x"]).solver
    return read(flat, Known(own, 100)).sampler


def test_the_command_line_knows_every_setting_of_a_sampler() -> None:
    own = SamplerConfig("ddim", 12)
    other = SamplerConfig("ddim", 9, "linspace", 0.5, "ratio", 1, False, False, "fixed_large")
    other = replace(other, temperature=0.5)
    words = [f"solver.{k}={v}" for k, v in asdict(other).items() if k != "name" and v is not None]
    assert named(own, "solver=ddim", *words) == other
    assert {f.name for f in fields(SamplerConfig)} == {*asdict(other)}
    chosen = named(own, "solver=ddim", "solver.timesteps=[9,5,1]")
    assert chosen == replace(own, steps=3, timesteps=(9, 5, 1))
    shifted = named(SamplerConfig("flow_euler", 12), "solver=flow", "solver.shift=2.0")
    assert shifted.shift == 2.0


@pytest.mark.parametrize(
    "own",
    [
        SamplerConfig("ddim", 12, "linspace", eta=0.5),
        SamplerConfig("ddim", 12, "linspace", previous="ratio"),
        SamplerConfig("ddpm", 12, "linspace", variance="fixed_large"),
    ],
    ids=["stochastic", "ratio", "ddpm"],
)
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m"])
def test_dpm_solver_takes_the_steps_of_any_policy(own: SamplerConfig, name: str) -> None:
    found = named(own, "solver=dpmpp", f"solver.sampler={name}")
    assert (found.name, found.steps, found.spacing) == (name, 12, "trailing")
    assert build_sampler(NoiseSchedule(), found).steps == 12


def test_a_flow_keeps_its_shift() -> None:
    own = SamplerConfig("flow_2m", 12, "linspace", shift=3.0)
    assert named(own, "solver=flow") == SamplerConfig("flow_euler", 12, "linspace", shift=3.0)
    assert named(own, "solver=flow", "solver.sampler=flow_2m") == own


def test_adams_steps_follow_the_policys_euler_loop() -> None:
    own = SamplerConfig("flow_euler", 100, shift=3.0)
    words = ("solver=flow", "solver.sampler=flow_adams", "solver.steps=12")
    assert named(own, *words) == SamplerConfig("flow_adams", 12, shift=3.0, follows=100)
    assert named(own, *words).label == "flow_adams-12 of 100"
    assert named(own, *words, "solver.follows=0") == SamplerConfig("flow_adams", 12, shift=3.0)
    other = SamplerConfig("flow_adams", 12, follows=50)
    assert named(other, "solver=default") == other
    assert named(other, "solver=flow") == SamplerConfig("flow_euler", 12)


def test_the_other_kind_of_schedule_is_named_in_the_refusal() -> None:
    """Not the first setting that happens to differ."""
    flow = named(SamplerConfig("flow_euler", shift=3.0), "solver=dpmpp")
    with pytest.raises(PcmError, match="dpmpp_2m does not belong to noise schedule flow"):
        build_sampler(NoiseSchedule("flow"), flow)
    own = SamplerConfig("ddim", spacing="leading", offset=1, eta=0.5)
    with pytest.raises(PcmError, match="flow_euler does not belong to noise schedule squared"):
        build_sampler(NoiseSchedule(), named(own, "solver=flow"))


@settings(max_examples=60)
@given(
    st.sampled_from(["flow_euler", "flow_2m", "flow_adams"]),
    st.integers(2, 1000),
    st.integers(1, 20),
    st.sampled_from(get_args(Spacing)),
    st.floats(0.2, 5.0),
    st.sampled_from(["flow_velocity", "sample"]),
)
def test_n_rounds_of_picard_are_the_sequential_chunk_of_any_flow(
    name: Any, trained: int, steps: int, spacing: Spacing, shift: float, prediction: PredictionType
) -> None:
    """A chunk that is predicted throughout comes out, whatever the levels."""
    config = SamplerConfig(name, steps, spacing, shift=shift)
    sampler = build_sampler(NoiseSchedule("flow", trained), config)
    assert torch.equal(sampler.M, sampler.M.tril(-1))
    alpha = torch.cat([sampler.alpha, torch.ones(1, dtype=F64)])
    share = sampler.M.sum(dim=1) + sampler.p * sampler.alpha[0]
    torch.testing.assert_close(share, alpha, rtol=0, atol=1e-9)
    denoise, noise = problem(F64, steps=steps)
    denoise = Denoiser(denoise.network, sampler, denoise.cond, prediction)
    exact = sequential(denoise, noise)
    assert torch.isfinite(exact.sample).all()
    for solver in (picard, anderson, coarse):
        assert distance(solver(denoise, noise, rounds=steps), exact) <= 1e-8
    if sampler.one_step:
        assert distance(paradigms(denoise, noise, rounds=steps), exact) <= 1e-8
    else:
        with pytest.raises(PcmError, match="flow_euler"):
            paradigms(denoise, noise, rounds=steps)
