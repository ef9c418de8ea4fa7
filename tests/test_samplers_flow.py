"""Flow matching against diffusers' loops, and a flow policy trained and solved for real."""

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from test_samplers_diffusers import Wobble, draw
from torch import Tensor

from pcm_policy.cli import train_main
from pcm_policy.commands import compose
from pcm_policy.denoise import Denoiser, to_clean, training_target
from pcm_policy.errors import PcmError
from pcm_policy.policy import DiffusionPolicy, PolicyConfig
from pcm_policy.samplers import SamplerConfig, build_sampler
from pcm_policy.schedules import NoiseSchedule, flow_levels
from pcm_policy.solve import SolverConfig
from pcm_policy.solvers import anderson, coarse, paradigms, picard, sequential

FLOW = NoiseSchedule("flow", 100)
Euler: Any = diffusers.FlowMatchEulerDiscreteScheduler
DPM: Any = diffusers.DPMSolverMultistepScheduler


def ours(config: SamplerConfig) -> tuple[Denoiser, Any]:
    noise, cond = draw(config.steps)
    sampler = build_sampler(FLOW, config)
    return Denoiser(Wobble(100), sampler, cond, "flow_velocity", clip=None), noise


def theirs(scheduler: Any) -> Tensor:
    noise, cond = draw(len(scheduler.timesteps))
    x, network = noise.initial, Wobble(100)
    states = [x]
    for t in scheduler.timesteps:
        output = network(x, t.expand(x.shape[0]), cond)
        x = scheduler.step(output, t, x).prev_sample.double()
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 16, 40])
def test_flow_euler_equals_diffusers_in_every_state(steps: int, shift: float) -> None:
    scheduler = Euler(num_train_timesteps=100)
    config = SamplerConfig("flow_euler", steps, "linspace", shift=shift)
    denoise, noise = ours(config)
    # diffusers shifts its table's ends as well; given the levels, it takes them as they are.
    scheduler.set_timesteps(sigmas=denoise.sampler.sigma.tolist())
    if shift == 1.0:
        plain = Euler(num_train_timesteps=100)
        plain.set_timesteps(steps)
        torch.testing.assert_close(
            plain.timesteps.double(), denoise.sampler.timesteps, rtol=0, atol=2e-5
        )
    difference = sequential(denoise, noise).trajectory - theirs(scheduler)
    assert float(difference.abs().max()) <= 1e-5  # diffusers works in float32


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 40])
def test_flow_2m_equals_diffusers_multistep_solver_on_a_flow(steps: int, spacing: Any) -> None:
    scheduler = DPM(
        num_train_timesteps=100,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=2,
        final_sigmas_type="zero",
    )
    denoise, noise = ours(SamplerConfig("flow_2m", steps, spacing))
    scheduler.set_timesteps(steps)
    sigma = denoise.sampler.sigma
    scheduler.sigmas = torch.cat([sigma, sigma.new_zeros(1)])
    scheduler.timesteps = denoise.sampler.timesteps
    difference = sequential(denoise, noise).trajectory - theirs(scheduler)
    assert float(difference.abs().max()) <= 1e-5


@pytest.mark.parametrize("name", ["flow_euler", "flow_2m"])
def test_parallel_rounds_find_the_sequential_chunk(name: Any) -> None:
    denoise, noise = ours(SamplerConfig(name, 12, shift=2.0))
    exact = sequential(denoise, noise)
    for solver in (picard, anderson, coarse):
        found = solver(denoise, noise, rounds=12)
        assert float((found.trajectory - exact.trajectory).abs().max()) <= 1e-9
    if name == "flow_euler":
        found = paradigms(denoise, noise, rounds=12)
        assert float((found.trajectory - exact.trajectory).abs().max()) <= 1e-9


def test_velocity_is_what_the_straight_path_has() -> None:
    gen = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, generator=gen, dtype=torch.float64)
    sigma = torch.linspace(0.1, 1.0, 4, dtype=torch.float64)[:, None]
    x = (1 - sigma) * clean + sigma * noise
    v = training_target(clean, noise, 1 - sigma, sigma, "flow_velocity")
    torch.testing.assert_close(to_clean(v, x, 1 - sigma, sigma, "flow_velocity"), clean)
    torch.testing.assert_close(x + 1e-3 * v, (1 - sigma - 1e-3) * clean + (sigma + 1e-3) * noise)


def test_levels() -> None:
    assert flow_levels(100, 4, "trailing", 1.0).tolist() == [1.0, 0.75, 0.5, 0.25]
    assert flow_levels(100, 2, "linspace", 1.0).tolist() == [1.0, 0.01]
    assert float(flow_levels(100, 4, "trailing", 3.0)[2]) == 0.75
    with pytest.raises(PcmError, match="starts at pure noise"):
        flow_levels(100, 4, "leading", 1.0)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(PcmError, match="does not belong"):
        build_sampler(FLOW, SamplerConfig("ddim"))
    with pytest.raises(PcmError, match="does not belong"):
        build_sampler(NoiseSchedule(), SamplerConfig("flow_euler"))
    for prediction, sampler in (("epsilon", "flow_euler"), ("flow_velocity", "ddim")):
        with pytest.raises(PcmError, match="a flow takes"):
            PolicyConfig(2, 2, schedule=FLOW, prediction=prediction, sampler=SamplerConfig(sampler))  # type: ignore[arg-type]


def test_a_flow_policy_is_trained_and_solved_in_parallel(tmp_path: Path) -> None:
    config = compose(
        "train",
        [
            "dataset.path=released/pusht_demos",
            f"output_dir={tmp_path}",
            "policy.schedule.name=flow",
            "policy.prediction=flow_velocity",
            "policy.sampler.name=flow_euler",
            "train.steps=150",
            "train.batch=64",
            "train.warmup=20",
            "train.log_every=10",
            "network.options.width=64",
        ],
    )
    policy = DiffusionPolicy.from_pretrained(train_main(config))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    losses = [eval(line)["loss"] for line in lines if "loss" in line and "val_loss" not in line]
    assert losses[-1] < 0.6 * losses[0]
    assert policy.held_out is not None
    obs, sampler = policy.held_out[:4], policy.config.sampler
    noise = policy.draw_noise(4, SolverConfig("sequential", sampler))
    exact = policy.solve(obs, SolverConfig("sequential", sampler), noise)
    found = policy.solve(obs, SolverConfig("picard", sampler, tolerance=1e-4), noise)
    assert found.certified.all()
    assert float((found.sample - exact.sample).abs().max()) <= 1e-4
    second = policy.solver({"method": "picard", "sampler": "flow_2m", "tolerance": 1e-4})
    assert policy.solve(obs, second, noise).certified.all()
