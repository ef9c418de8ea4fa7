"""DPM-Solver++ against diffusers' own step loop, state by state, last one included."""

from itertools import product
from typing import Any, get_args

import diffusers
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.multistep import solver_timesteps
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import BetaSchedule, NoiseSchedule, Spacing
from tests.problems import F64, distance, problem
from tests.sampling.test_samplers_diffusers import Wobble, draw
from tests.solving import anderson, coarse, paradigms, picard, sequential

DPM: Any = diffusers.DPMSolverMultistepScheduler
PREDICTIONS: tuple[PredictionType, ...] = ("epsilon", "sample", "v_prediction")
TRAINED_STEPS = [
    (100, 1),
    (100, 2),
    (100, 3),
    (100, 7),
    (100, 12),
    (100, 16),
    (100, 49),
    (1000, 20),
]


def theirs(scheduler: Any, network: Wobble) -> Tensor:
    """All states of diffusers' loop; its float32 noise levels replaced by float64 ones."""
    at = scheduler.timesteps
    abar = scheduler.alphas_cumprod.double()[at]
    scheduler.sigmas = torch.cat([((1 - abar) / abar).sqrt(), abar.new_zeros(1)])
    noise, cond = draw(len(at))
    x = noise.initial
    states = [x]
    for t in at:
        output = network(x, t.expand(x.shape[0]), cond)
        x = scheduler.step(output, t, x).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_solver_equals_diffusers_in_every_state(
    order: int, prediction: PredictionType, schedule: BetaSchedule
) -> None:
    for (trained, steps), spacing in product(TRAINED_STEPS, get_args(Spacing)):
        scheduler = DPM(
            num_train_timesteps=trained,
            beta_schedule=schedule,
            prediction_type=prediction,
            solver_order=order,
            algorithm_type="dpmsolver++",
            solver_type="midpoint",
            lower_order_final=True,
            final_sigmas_type="zero",
            timestep_spacing=spacing,
        )
        scheduler.set_timesteps(steps)
        table = solver_timesteps(trained, steps, spacing)
        assert table.tolist() == scheduler.timesteps.tolist()
        kept = (
            scheduler.sigmas.double()
        )  # diffusers' own noise levels, before `theirs` refines them
        config = SamplerConfig("dpmpp_2m" if order == 2 else "dpmpp_3m", steps, spacing)
        sampler = build_sampler(NoiseSchedule(schedule, trained), config)
        levels = torch.cat([sampler.sigma / sampler.alpha, sampler.sigma.new_zeros(1)])
        torch.testing.assert_close(kept, levels, rtol=1e-5, atol=0)
        noise, cond = draw(steps)
        network = Wobble(trained)
        denoise = Denoiser(network, sampler, cond, prediction, clip=None)
        mine = sequential(denoise, noise).trajectory
        want = theirs(scheduler, network)
        # diffusers rounds every state to float32, whatever it is given; without clipping, errors
        # of an epsilon prediction scale with 1 / alpha of the first step, as the states do.
        assert float((mine - want).abs().max() / want.abs().max()) <= 2e-6


@st.composite
def choices(draw: st.DrawFn) -> tuple[NoiseSchedule, SamplerConfig]:
    """Any variance preserving schedule with any sampler that fits on it."""
    trained = draw(st.integers(2, 120))
    low, high = sorted(draw(st.tuples(st.floats(1e-4, 0.02), st.floats(1e-4, 0.2))))
    schedule = NoiseSchedule(
        draw(st.sampled_from(["squaredcos_cap_v2", "linear"])), trained, low, high
    )
    name = draw(st.sampled_from(["ddpm", "ddim", "dpmpp_2m", "dpmpp_3m"]))
    # the multistep solver's spacings divide by N + 1: these fit all of them
    steps = draw(st.integers(1, min(20, max(1, trained // 2))))
    spacing = draw(st.sampled_from(get_args(Spacing)))
    eta = draw(st.floats(0, 1)) if name == "ddim" else 0.0
    return schedule, SamplerConfig(name, steps, spacing, eta)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(choices(), st.sampled_from(["sample", "v_prediction"]))
def test_n_rounds_of_picard_are_the_sequential_chunk(
    choice: tuple[NoiseSchedule, SamplerConfig], prediction: PredictionType
) -> None:
    """``M`` is strictly lower triangular, so round ``k`` makes the first ``k`` states final."""
    schedule, config = choice
    sampler = build_sampler(schedule, config)
    denoise, noise = problem(F64, prediction, steps=config.steps, name="ddpm")
    denoise = Denoiser(denoise.network, sampler, denoise.cond, prediction)
    exact = sequential(denoise, noise)
    assert torch.isfinite(exact.sample).all()
    for solver in (picard, anderson, coarse):
        assert distance(solver(denoise, noise, rounds=config.steps), exact) <= 1e-8
        assert distance(solver(denoise, noise, tolerance=1e-11), exact) <= 1e-8


@settings(max_examples=100)
@given(choices())
def test_every_multistep_table_is_triangular_and_ends_at_a_prediction(
    choice: tuple[NoiseSchedule, SamplerConfig],
) -> None:
    """No noise is left at the end, and a chunk that is predicted throughout is what comes out."""
    schedule, config = choice
    assume(config.name.startswith("dpmpp"))
    sampler = build_sampler(schedule, config)
    assert torch.equal(sampler.M, sampler.M.tril(-1))
    assert not sampler.stochastic
    assert float(sampler.p[-1]) == 0
    # a prediction c in every step keeps x = alpha c + sigma noise on its path
    alpha = torch.cat([sampler.alpha, torch.ones(1, dtype=F64)])
    torch.testing.assert_close(
        sampler.M.sum(dim=1) + sampler.p * sampler.alpha[0], alpha, rtol=0, atol=1e-9
    )


def test_multistep_samplers_have_no_increments() -> None:
    denoise, noise = problem(steps=8, name="dpmpp_2m")
    assert not denoise.sampler.one_step
    with pytest.raises(PcmError, match="one-step increments"):
        paradigms(denoise, noise, rounds=8)


def test_steps_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PcmError, match="spacing=trailing"):
        solver_timesteps(100, 100, "leading")
    with pytest.raises(PcmError, match="trained with 100"):
        solver_timesteps(100, 101, "trailing")
