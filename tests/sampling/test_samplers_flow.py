"""Flow matching against diffusers' loops, and a flow policy trained and solved for real."""

import json
import math
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from pcm_policy.cli.compose import compose
from pcm_policy.cli.train import train_main
from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser, PredictionType, to_clean, training_target
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler, SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing, flow_levels
from pcm_policy.solvers.registry import Solver
from tests.sampling.test_samplers_diffusers import Wobble, draw
from tests.solving import anderson, coarse, paradigms, picard, sequential

FLOW = NoiseSchedule("flow", 100)
Euler: Any = diffusers.FlowMatchEulerDiscreteScheduler
DPM: Any = diffusers.DPMSolverMultistepScheduler


SHIFTS, STEPS = (0.5, 1.0, 3.0), (1, 2, 3, 7, 16, 40)
PREDICTIONS: tuple[PredictionType, ...] = ("flow_velocity", "sample")
FLOAT32 = 1e-5  # diffusers keeps levels and states in float32; states are near 3


def ours(
    config: SamplerConfig, trained: int = 100, prediction: PredictionType = "flow_velocity"
) -> tuple[Denoiser, Noise]:
    noise, cond = draw(config.steps)
    sampler = build_sampler(NoiseSchedule("flow", trained), config)
    return Denoiser(Wobble(trained), sampler, cond, prediction, clip=None), noise


def theirs(scheduler: Any, denoise: Denoiser, noise: Noise) -> Tensor:
    """All states of diffusers' own loop, over its own levels."""
    x = noise.initial
    states = [x]
    for t, shown in zip(scheduler.timesteps, denoise.sampler.timesteps, strict=True):
        output = denoise.network(x, shown.expand(x.shape[0]), denoise.cond)
        x = scheduler.step(output, t, x).prev_sample.double()
        states.append(x)
    return torch.stack(states)


def difference(scheduler: Any, denoise: Denoiser, noise: Noise) -> float:
    found = sequential(denoise, noise).trajectory
    assert found is not None
    return float((found - theirs(scheduler, denoise, noise)).abs().max().nan_to_num(torch.inf))


def assert_levels(scheduler: Any, sampler: AffineSampler) -> None:
    want = torch.cat([sampler.sigma, sampler.sigma.new_zeros(1)])
    torch.testing.assert_close(scheduler.sigmas.double(), want, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("trained", [100, 1000])
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
def test_flow_euler_equals_diffusers_in_every_state(
    spacing: Spacing, steps: int, shift: float, trained: int
) -> None:
    """Over its default grid, and over the one that Stable Diffusion 3's pipeline hands it."""
    scheduler = Euler(num_train_timesteps=trained, shift=shift)
    if spacing == "linspace":
        scheduler.set_timesteps(steps)
    else:
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps))
    denoise, noise = ours(SamplerConfig("flow_euler", steps, spacing, shift=shift), trained)
    assert_levels(scheduler, denoise.sampler)
    torch.testing.assert_close(
        scheduler.timesteps, denoise.sampler.timesteps, rtol=2e-6, atol=0
    )  # what the network is shown
    assert difference(scheduler, denoise, noise) <= FLOAT32


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("steps", STEPS)
def test_flow_2m_equals_diffusers_over_its_own_grid(
    steps: int, shift: float, prediction: PredictionType
) -> None:
    """diffusers rounds the times it shows to integers, but not its levels: levels are compared."""
    scheduler = DPM(
        num_train_timesteps=100,
        prediction_type=prediction.replace("flow_velocity", "flow_prediction"),
        use_flow_sigmas=True,
        flow_shift=shift,
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    denoise, noise = ours(
        SamplerConfig("flow_2m", steps, "leading", shift=shift), prediction=prediction
    )
    assert_levels(scheduler, denoise.sampler)
    assert scheduler.timesteps.tolist() == [int(t + 1e-4) for t in denoise.sampler.timesteps]
    assert difference(scheduler, denoise, noise) <= FLOAT32


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize("steps", STEPS)
def test_flow_2m_from_pure_noise_is_the_published_formula(steps: int, spacing: Spacing) -> None:
    """Lu et al. 2022, eq. for D and x, in plain numbers, where lambda starts at minus infinity."""
    denoise, noise = ours(SamplerConfig("flow_2m", steps, spacing, shift=2.0))
    levels = [*denoise.sampler.sigma.tolist(), 0.0]
    x, earlier, last_h = noise.initial, None, math.nan
    for j in range(steps):
        s, after = levels[j], levels[j + 1]
        t = denoise.sampler.timesteps[j].expand(x.shape[0])
        clean = x - s * denoise.network(x, t, denoise.cond)
        h = math.inf
        if s < 1 and after > 0:
            h = math.log((1 - after) / after) - math.log((1 - s) / s)
        mixed = clean
        if earlier is not None and after > 0 and last_h < math.inf:
            mixed = clean + h / (2 * last_h) * (clean - earlier)
        x = after / s * x - (1 - after) * math.expm1(-h) * mixed
        earlier, last_h = clean, h
    torch.testing.assert_close(sequential(denoise, noise).sample, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["flow_euler", "flow_2m", "flow_adams"])
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
    assert flow_levels(100, 2, "leading", 1.0).tolist() == pytest.approx([0.99, 0.495])
    with pytest.raises(PcmError, match="at least one step"):
        flow_levels(100, 0, "trailing", 1.0)
    with pytest.raises(PcmError, match="use spacing=trailing"):
        flow_levels(1, 1, "leading", 1.0)


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(PcmError, match="does not belong"):
        build_sampler(FLOW, SamplerConfig("ddim"))
    with pytest.raises(PcmError, match="does not belong"):
        build_sampler(NoiseSchedule(), SamplerConfig("flow_euler"))
    with pytest.raises(PcmError, match="use one of flow_adams, flow_euler, flow_2m"):
        build_sampler(FLOW, SamplerConfig("dpmpp_2m"))
    with pytest.raises(PcmError, match="no table of alphas"):
        FLOW.alphas_cumprod()
    settings: list[tuple[str, dict[str, Any]]] = [
        ("ddim", {"shift": 3.0}),
        ("flow_euler", {"shift": 0.0}),
        ("flow_euler", {"shift": math.inf}),
        ("flow_euler", {"eta": 0.5}),
        ("flow_2m", {"previous": "ratio"}),
        ("flow_2m", {"offset": 1}),
        ("flow_euler", {"follows": 100}),
        ("flow_adams", {"follows": -1}),
        ("dpmpp_3m", {"eta": 0.5}),
    ]
    for name, given in settings:
        with pytest.raises(PcmError, match=f"sampler .*({name}|{next(iter(given))})"):
            SamplerConfig(name, **given)  # type: ignore[arg-type]
    for prediction, sampler in (("epsilon", "flow_euler"), ("flow_velocity", "ddim")):
        with pytest.raises(PcmError, match="a flow takes"):
            PolicyConfig(2, 2, schedule=FLOW, prediction=prediction, sampler=SamplerConfig(sampler))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_flow_policy_is_trained_and_solved_in_parallel(tmp_path: Path) -> None:
    config = compose(
        "train",
        [
            "task=pusht",
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
    logged = [json.loads(line) for line in lines]
    losses = [each["loss"] for each in logged if "loss" in each]
    assert losses[-1] < 0.6 * losses[0]
    assert policy.held_out is not None
    obs, sampler = policy.held_out[:4], policy.config.sampler
    noise = policy.draw_noise(4, sampler)
    exact = policy.solve(obs, Solver.of("sequential", sampler), noise)
    found = policy.solve(obs, Solver.of("picard", sampler, tolerance=1e-4), noise)
    assert found.certified.all()
    assert float((found.sample - exact.sample).abs().max()) <= 1e-4
    second = policy.solver({"method": "picard", "sampler": "flow_2m", "tolerance": 1e-4})
    assert policy.solve(obs, second, noise).certified.all()
