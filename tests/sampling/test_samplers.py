"""Properties of the affine form ``X = p x_0 + S z + M xhat`` itself, free of any other code."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import AffineSampler, SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from tests.solving import sequential

F64 = torch.float64


@st.composite
def choices(draw: st.DrawFn, previous: str = "any") -> tuple[NoiseSchedule, SamplerConfig]:
    """Any schedule with any sampler on it."""
    trained = draw(st.integers(1, 120))
    schedule = NoiseSchedule(draw(st.sampled_from(["squaredcos_cap_v2", "linear"])), trained)
    rules = ["next", "ratio"] if previous == "any" else [previous]
    config = SamplerConfig(
        name=draw(st.sampled_from(["ddpm", "ddim"])),
        steps=draw(st.integers(1, min(trained, 30))),
        spacing=draw(st.sampled_from(["leading", "linspace", "trailing"])),
        eta=draw(st.floats(0, 1)),
        previous=draw(st.sampled_from(rules)),
        final_alpha_one=draw(st.booleans()),
        rederive_epsilon=draw(st.booleans()),
        variance=draw(st.sampled_from(["fixed_small", "fixed_large"])),
    )
    return schedule, config


def landing(schedule: NoiseSchedule, sampler: AffineSampler, last: float = 1.0) -> Tensor:
    """Cumulative alpha of the level that each consistent step lands on, shape (N,)."""
    abar = schedule.alphas_cumprod()[sampler.timesteps]
    return torch.cat([abar[1:], abar.new_tensor([last])])


@given(choices())
def test_every_table_is_finite_and_strictly_triangular(
    choice: tuple[NoiseSchedule, SamplerConfig],
) -> None:
    sampler = build_sampler(*choice)
    n = choice[1].steps
    assert sampler.steps == n
    assert sampler.p.shape == (n + 1,)
    assert sampler.p[0] == 1
    for table in (sampler.M, sampler.S):
        assert table.shape == (n + 1, n)
        assert torch.equal(table, table.tril(-1))
    for value in vars(sampler).values():
        if isinstance(value, Tensor) and value.is_floating_point():
            assert value.dtype == F64
            assert value.isfinite().all()
    assert (sampler.gain >= 0).all()
    assert (sampler.timesteps.diff() < 0).all()
    assert torch.allclose(sampler.alpha**2 + sampler.sigma**2, torch.ones(n, dtype=F64))


@given(choices(), st.integers(0, 2**31))
def test_unrolled_form_equals_the_one_step_recursion(
    choice: tuple[NoiseSchedule, SamplerConfig], seed: int
) -> None:
    sampler = build_sampler(*choice)
    gen = torch.Generator().manual_seed(seed)
    x0, z, xhat = (torch.randn(sampler.steps, generator=gen, dtype=F64) for _ in range(3))
    x = x0[0]
    states = [x]
    for j in range(sampler.steps):
        x = sampler.decay[j] * x + sampler.gain[j] * xhat[j] + sampler.noise[j] * z[j]
        states.append(x)
    unrolled = sampler.p * x0[0] + sampler.S @ z + sampler.M @ xhat
    torch.testing.assert_close(unrolled, torch.stack(states), rtol=1e-10, atol=1e-10)


@given(choices(previous="next"))
def test_a_perfect_prediction_keeps_the_marginals(
    choice: tuple[NoiseSchedule, SamplerConfig],
) -> None:
    """With the true clean chunk as prediction, state j has its level's mean and variance."""
    schedule, config = choice
    sampler = build_sampler(schedule, config)
    ends_early = config.name == "ddim" and not config.final_alpha_one
    abar = landing(schedule, sampler, float(schedule.alphas_cumprod()[0]) if ends_early else 1.0)
    mean = sampler.decay * sampler.alpha + sampler.gain
    torch.testing.assert_close(mean, abar.sqrt(), rtol=0, atol=1e-9)
    if config.name == "ddpm" and config.variance == "fixed_large":
        return  # adds more noise than the forward process holds
    variance = (sampler.decay * sampler.sigma) ** 2 + sampler.noise**2
    torch.testing.assert_close(variance, 1 - abar, rtol=0, atol=1e-9)


@given(choices(previous="next"))
def test_ddpm_is_the_gaussian_posterior_and_ddim_at_eta_one(
    choice: tuple[NoiseSchedule, SamplerConfig],
) -> None:
    schedule, config = choice
    config = replace(config, variance="fixed_small", eta=1.0, final_alpha_one=True)
    ddpm = build_sampler(schedule, replace(config, name="ddpm"))
    ddim = build_sampler(schedule, replace(config, name="ddim"))
    # Bayes: prior N(sqrt(next) xhat, 1 - next), likelihood N(sqrt(step) x_next, 1 - step)
    now, nxt = schedule.alphas_cumprod()[ddpm.timesteps][:-1], landing(schedule, ddpm)[:-1]
    step = now / nxt
    precision = 1 / (1 - nxt) + step / (1 - step)
    expected = [
        step.sqrt() / (1 - step) / precision,
        nxt.sqrt() / (1 - nxt) / precision,
        (1 / precision).sqrt(),
    ]
    for sampler in (ddpm, ddim):
        for found, want in zip((sampler.decay, sampler.gain, sampler.noise), expected, strict=True):
            torch.testing.assert_close(found[:-1], want, rtol=0, atol=1e-9)
        last = torch.stack([sampler.decay[-1], sampler.gain[-1], sampler.noise[-1]])
        torch.testing.assert_close(
            last, torch.tensor([0.0, 1.0, 0.0], dtype=F64), rtol=0, atol=1e-9
        )


class GaussianData:
    """The exact denoiser of one-dimensional data N(mean, std^2), in every prediction type."""

    def __init__(self, schedule: NoiseSchedule, mean: float, std: float) -> None:
        self.abar, self.mean, self.std = schedule.alphas_cumprod(), mean, std

    def network(self, prediction: PredictionType, x: Tensor, t: Tensor) -> Tensor:
        abar = self.abar[t].view(-1, 1, 1)
        alpha, sigma = abar.sqrt(), (1 - abar).sqrt()
        shrink = alpha * self.std**2 / (abar * self.std**2 + 1 - abar)
        clean = self.mean + shrink * (x - alpha * self.mean)
        noise = (x - alpha * clean) / sigma
        return {"epsilon": noise, "sample": clean, "v_prediction": alpha * noise - sigma * clean}[
            prediction
        ]

    def solve(
        self, sampler: AffineSampler, noise: Noise, prediction: PredictionType = "sample"
    ) -> Tensor:
        cond = torch.zeros(noise.initial.shape[0], 1, dtype=F64)
        denoise = Denoiser(
            lambda x, t, _: self.network(prediction, x, t), sampler, cond, prediction, clip=None
        )
        return sequential(denoise, noise).sample[:, 0, 0]


@pytest.mark.parametrize("name", ["squaredcos_cap_v2", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_ddim_follows_the_exact_flow_of_gaussian_data(
    name: str, prediction: PredictionType
) -> None:
    """The probability flow keeps each sample's quantile, so the answer is known; error ~ 1/N."""
    schedule = NoiseSchedule(name, 1000)  # type: ignore[arg-type]
    data = GaussianData(schedule, mean=0.4, std=0.3)
    x0 = torch.linspace(-2, 2, 9, dtype=F64)
    errors = []
    for steps in (10, 100, 1000):
        sampler = build_sampler(schedule, SamplerConfig(steps=steps, eta=0.0))
        alpha, sigma = sampler.alpha[0], sampler.sigma[0]
        quantile = (x0 - alpha * data.mean) / (alpha**2 * data.std**2 + sigma**2).sqrt()
        expected = data.mean + data.std * quantile
        found = data.solve(sampler, Noise(x0.view(-1, 1, 1)), prediction)
        errors.append(float((found - expected).abs().max()))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 1e-2


@pytest.mark.parametrize(("name", "eta"), [("ddpm", 0.0), ("ddim", 0.5), ("ddim", 1.0)])
def test_stochastic_samplers_reach_the_variance_of_gaussian_data(name: str, eta: float) -> None:
    """The solve is affine in its noise: unit impulses give the exact mean and variance."""
    schedule = NoiseSchedule("squaredcos_cap_v2", 400)
    data = GaussianData(schedule, mean=0.4, std=0.3)
    errors = []
    for steps in (20, 400):
        config = SamplerConfig(name=name, steps=steps, eta=eta)  # type: ignore[arg-type]
        sampler = build_sampler(schedule, config)
        impulses = torch.eye(steps + 1, steps + 2, dtype=F64)[:, :, None, None]
        sample = data.solve(sampler, Noise(impulses[0], impulses[1:]))
        silent = sample[-1]
        errors.append(abs(float((sample[:-1] - silent).square().sum().sqrt()) - data.std))
        assert abs(float(silent) - data.mean) < 1e-2
    assert errors[1] < errors[0] / 4
    assert errors[1] < 1e-2


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_clipping_still_acts_where_a_step_has_no_gain(dtype: torch.dtype) -> None:
    """From abar_0 to abar_0, epsilon unclipped: x + alpha (clip(xhat) - xhat), and not a NaN."""
    schedule = NoiseSchedule("squaredcos_cap_v2", 100)
    config = SamplerConfig(
        steps=1, spacing="leading", final_alpha_one=False, rederive_epsilon=False
    )
    sampler = build_sampler(schedule, config).to("cpu", dtype)
    x = torch.tensor([-3.0, -0.5, 0.2, 2.5], dtype=dtype).view(4, 1, 1)
    cond = torch.zeros(4, 1, dtype=dtype)
    denoise = Denoiser(lambda x, t, _: 1.1 * x, sampler, cond, "sample", clip=1.0)
    expected = x + sampler.alpha * ((1.1 * x).clamp(-1, 1) - 1.1 * x)
    torch.testing.assert_close(sequential(denoise, Noise(x)).sample, expected, rtol=0, atol=1e-5)


@given(choices())
def test_stochastic_says_whether_step_noise_is_used(
    choice: tuple[NoiseSchedule, SamplerConfig],
) -> None:
    sampler = build_sampler(*choice)
    assert sampler.stochastic == bool(sampler.S.abs().sum() > 0)
    if choice[1].name == "ddim" and choice[1].eta == 0:
        assert not sampler.stochastic


def test_conversion_moves_every_table_and_keeps_the_timesteps() -> None:
    sampler = build_sampler(NoiseSchedule(), SamplerConfig(steps=5))
    moved = sampler.to("cpu", torch.float32)
    assert moved.timesteps.dtype == torch.int64
    assert moved.stochastic == sampler.stochastic
    for table in ("alpha", "sigma", "clip_gain", "decay", "gain", "noise", "p", "S", "M"):
        assert getattr(moved, table).dtype == torch.float32
        torch.testing.assert_close(getattr(moved, table).double(), getattr(sampler, table))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "euler"),
        ("spacing", "even"),
        ("previous", "last"),
        ("variance", "learned"),
        ("eta", 1.5),
        ("eta", -0.1),
    ],
)
def test_unknown_choices_are_refused(field: str, value: str | float) -> None:
    with pytest.raises(PcmError, match=f"{field}=.*use "):
        SamplerConfig(**{field: value})  # type: ignore[arg-type]
