"""Affine DDPM and DDIM against diffusers' own step loops, state by state, in float64.

diffusers builds its table of cumulative alphas in float32. Both sides use exactly those values and
compute in float64, so that only a different formula could make a difference.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any, get_args

import diffusers
import pytest
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, Variance, build_sampler
from pcm_policy.sampling.schedules import BetaSchedule, NoiseSchedule, Spacing, timesteps
from tests.solving import sequential

B, T, DA, C = 3, 2, 2, 3
ATOL = 1e-5
SCHEDULES = get_args(BetaSchedule)
PREDICTIONS = [p for p in get_args(PredictionType) if p != "flow_velocity"]  # not VP
SPACINGS, VARIANCES = get_args(Spacing), get_args(Variance)
TRAINED_STEPS = [(100, 1), (100, 3), (100, 7), (100, 16), (100, 100), (1000, 16), (1000, 48)]
# numpy's arange, under diffusers' trailing spacing, overshoots by one element at these counts
TRAILING_OVERSHOOTS = {29, 31, 58, 62, 97}

DDIM: Any = diffusers.DDIMScheduler
DDPM: Any = diffusers.DDPMScheduler


class Wobble:
    """A smooth 'network' that is nonlinear, depends on the time, and leaves [-1, 1].

    Its slope is mild: with a steep one diffusers' own loop turns a perturbation of 1e-15 into 1e-3.
    """

    def __init__(self, trained: int) -> None:
        gen = torch.Generator().manual_seed(7)
        self.mix = 0.3 * torch.randn(T * DA, T * DA, generator=gen, dtype=torch.float64)
        self.mix_cond = torch.randn(C, T * DA, generator=gen, dtype=torch.float64)
        self.trained = trained

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        phase = 3.0 * t.double()[:, None] / self.trained
        inner = x.flatten(1) @ self.mix + cond @ self.mix_cond + phase
        return (1.6 * torch.tanh(inner)).view_as(x)


def draw(steps: int) -> tuple[Noise, Tensor]:
    gen = torch.Generator().manual_seed(3)
    initial = torch.randn(B, T, DA, generator=gen, dtype=torch.float64)
    cond = torch.randn(B, C, generator=gen, dtype=torch.float64)
    gen.manual_seed(11)
    each = [torch.randn(B, T, DA, generator=gen, dtype=torch.float64) for _ in range(steps)]
    return Noise(initial, torch.stack(each)), cond


def in_float64(scheduler: Any, steps: int) -> Any:
    """Keep diffusers' float32 table, but do its arithmetic in float64."""
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    if isinstance(scheduler, DDIM):
        scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    scheduler.set_timesteps(steps)
    return scheduler


def theirs(scheduler: Any, config: SamplerConfig, network: Wobble) -> Tensor:
    """All states of diffusers' own loop, shape (N + 1, B, T, Da)."""
    noise, cond = draw(config.steps)
    assert noise.steps is not None
    generator = torch.Generator().manual_seed(11)  # DDPM draws from it what `draw` drew
    x = noise.initial
    states = [x]
    for j, t in enumerate(scheduler.timesteps.tolist()):
        output = network(x, torch.full((B,), t), cond)
        if isinstance(scheduler, DDPM):
            x = scheduler.step(output, t, x, generator=generator).prev_sample
        else:
            x = scheduler.step(
                output,
                t,
                x,
                eta=config.eta,
                use_clipped_model_output=config.rederive_epsilon,
                variance_noise=noise.steps[j],
            ).prev_sample
        states.append(x)
    return torch.stack(states)


def ours(settings: Any, config: SamplerConfig, network: Wobble, clip: float | None) -> Tensor:
    """All states of the sequential solver under a diffusers scheduler's settings."""
    noise, cond = draw(config.steps)
    schedule = NoiseSchedule(settings.beta_schedule, settings.num_train_timesteps)
    sampler = build_sampler(schedule, config)
    denoise = Denoiser(network, sampler, cond, settings.prediction_type, clip)
    return sequential(denoise, noise).trajectory


def error(scheduler: Any, config: SamplerConfig, network: Wobble, clip: float | None) -> float:
    difference = ours(scheduler.config, config, network, clip) - theirs(scheduler, config, network)
    assert difference.dtype == torch.float64
    return float(difference.abs().max().nan_to_num(torch.inf))


LONG = 48
"""From so many steps on a test takes every fourth case, each test others of them."""


def ddim_cases(
    spacing: Spacing, steps: int, turn: int
) -> Iterator[tuple[float | None, bool, float, bool, int]]:
    offsets = (0, 1) if spacing == "leading" else (0,)
    found = product((None, 0.7), (False, True), (0.0, 0.5, 1.0), (False, True), offsets)
    for i, case in enumerate(found):
        if steps < LONG or (i + i // 4 + turn) % 4 == 0:  # a diagonal: every value of every setting
            yield case


@pytest.mark.parametrize(("trained", "steps"), TRAINED_STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_equals_diffusers(
    name: BetaSchedule, prediction: PredictionType, spacing: Spacing, trained: int, steps: int
) -> None:
    network = Wobble(trained)
    turn = SCHEDULES.index(name) + PREDICTIONS.index(prediction) + SPACINGS.index(spacing)
    for clip, rederive, eta, final_alpha_one, offset in ddim_cases(spacing, steps, turn):
        if offset + (steps - 1) * (trained // steps) >= trained:
            continue  # past the end of the table: diffusers fails with an IndexError
        scheduler = DDIM(
            num_train_timesteps=trained,
            beta_schedule=name,
            prediction_type=prediction,
            clip_sample=clip is not None,
            clip_sample_range=clip or 1.0,
            set_alpha_to_one=final_alpha_one,
            steps_offset=offset,
            timestep_spacing=spacing,
        )
        config = SamplerConfig(
            name="ddim",
            steps=steps,
            spacing=spacing,
            eta=eta,
            previous="ratio",
            offset=offset,
            final_alpha_one=final_alpha_one,
            rederive_epsilon=rederive,
        )
        found = error(in_float64(scheduler, steps), config, network, clip)
        assert found <= ATOL, (clip, rederive, eta, final_alpha_one, offset)


@pytest.mark.parametrize(("trained", "steps"), TRAINED_STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm_equals_diffusers(
    name: BetaSchedule, prediction: PredictionType, spacing: Spacing, trained: int, steps: int
) -> None:
    network = Wobble(trained)
    offsets = (0, 1) if spacing == "leading" else (0,)
    for clip, variance, offset in product((None, 0.7), VARIANCES, offsets):
        if offset + (steps - 1) * (trained // steps) >= trained:
            continue
        scheduler = DDPM(
            num_train_timesteps=trained,
            beta_schedule=name,
            prediction_type=prediction,
            clip_sample=clip is not None,
            clip_sample_range=clip or 1.0,
            variance_type=variance,
            steps_offset=offset,
            timestep_spacing=spacing,
        )
        config = SamplerConfig(
            name="ddpm",
            steps=steps,
            spacing=spacing,
            previous="next",
            offset=offset,
            variance=variance,
        )
        found = error(in_float64(scheduler, steps), config, network, clip)
        assert found <= ATOL, (clip, variance, offset)


@pytest.mark.parametrize(
    ("name", "prediction", "rederive"),
    [  # every pair of values
        (name, prediction, (i + j) % 2 == 1)
        for i, name in enumerate(SCHEDULES)
        for j, prediction in enumerate(PREDICTIONS)
    ],
)
def test_all_of_1000_steps_equal_diffusers(
    name: BetaSchedule, prediction: PredictionType, rederive: bool
) -> None:
    network = Wobble(1000)
    common = {"beta_schedule": name, "prediction_type": prediction, "clip_sample": True}
    for eta in (0.0, 1.0):
        config = SamplerConfig(
            name="ddim", steps=1000, eta=eta, previous="ratio", rederive_epsilon=rederive
        )
        scheduler = in_float64(DDIM(**common, timestep_spacing="trailing"), 1000)
        assert error(scheduler, config, network, 1.0) <= ATOL
    scheduler = in_float64(DDPM(**common, timestep_spacing="trailing"), 1000)
    assert error(scheduler, SamplerConfig(name="ddpm", steps=1000), network, 1.0) <= ATOL


@pytest.mark.parametrize(
    "change",
    [
        {"name": "ddpm"},
        {"previous": "next"},
        {"eta": 0.6},
        {"rederive_epsilon": True},
        {"final_alpha_one": True},
        {"spacing": "leading"},
        {"clip": 0.75},
        {"clip": None},
    ],
    ids=str,
)
def test_the_comparison_would_see_every_choice(change: dict[str, Any]) -> None:
    settings = DDIM(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2").config
    base = SamplerConfig(
        steps=16,
        spacing="linspace",
        eta=0.5,
        previous="ratio",
        final_alpha_one=False,
        rederive_epsilon=False,
    )
    changed = replace(base, **{k: v for k, v in change.items() if k != "clip"})
    states = ours(settings, base, Wobble(100), 0.7)
    other = ours(settings, changed, Wobble(100), change.get("clip", 0.7))
    assert (states - other).abs().max() > 100 * ATOL


@pytest.mark.parametrize("trained", [1, 10, 100, 1000])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_table_is_diffusers_own(name: BetaSchedule, trained: int) -> None:
    table = DDPM(num_train_timesteps=trained, beta_schedule=name).alphas_cumprod
    assert table.dtype == torch.float32
    assert torch.equal(NoiseSchedule(name, trained).alphas_cumprod(), table.double())


@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps_equal_diffusers(spacing: Spacing) -> None:
    scheduler = DDIM(num_train_timesteps=100, timestep_spacing=spacing)
    for steps in range(1, 101):
        scheduler.set_timesteps(steps)
        visited = scheduler.timesteps
        if spacing == "trailing" and steps in TRAILING_OVERSHOOTS:
            assert visited[steps:].tolist() == [-1]  # a timestep that does not exist
            visited = visited[:steps]
        assert torch.equal(timesteps(100, steps, spacing), visited), steps
    if spacing == "leading":
        scheduler = DDIM(num_train_timesteps=100, steps_offset=1)
        scheduler.set_timesteps(16)
        assert torch.equal(timesteps(100, 16, "leading", offset=1), scheduler.timesteps)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [0, 101])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_more_steps_than_trained_are_refused(name: str, steps: int, spacing: Spacing) -> None:
    config = SamplerConfig(name=name, steps=steps, spacing=spacing)  # type: ignore[arg-type]
    with pytest.raises(PcmError, match="trained with 100 denoising steps"):
        build_sampler(NoiseSchedule(), config)


@pytest.mark.parametrize("offset", [1, -1])
def test_an_offset_past_the_table_is_refused(offset: int) -> None:
    with pytest.raises(PcmError, match=f"offset={offset}"):
        build_sampler(NoiseSchedule(), SamplerConfig(steps=100, spacing="leading", offset=offset))
