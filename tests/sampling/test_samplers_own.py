"""Samplers of one's own, as docs/extend.md tells how to write them, under every solver."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcm_policy.sampling.affine import AffineSampler, unroll_multistep
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SAMPLERS, SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from tests.cli.documented import files_shown
from tests.problems import F64, problem
from tests.solving import anderson, coarse, paradigms, picard, sequential

DOCS = Path(__file__).parents[2] / "docs" / "extend.md"
LEVELS = [1.0, 0.8, 0.65, 0.4, 0.3, 0.1]


@pytest.fixture(scope="module")
def renoising_flow() -> Callable[[list[float], float, int], AffineSampler]:
    """The function of the sampler that docs/extend.md refers to."""
    from tests.sampling import renoising

    config = SamplerConfig("renoising", 5)
    made = build_sampler(NoiseSchedule("flow", 100), config)
    assert (made.steps, made.stochastic) == (5, True)
    SAMPLERS._parts.pop("renoising")
    found: Callable[[list[float], float, int], AffineSampler] = renoising.renoising_flow
    return found


def on(sampler: AffineSampler) -> tuple[Denoiser, Any]:
    denoise, _ = problem(F64, steps=sampler.steps)
    noise = generator_noise(torch.Generator().manual_seed(1), 3, (4, 2), sampler.steps)
    return Denoiser(denoise.network, sampler, denoise.cond, "flow_velocity"), noise.to("cpu", F64)


def test_the_documented_sampler_is_solved_by_every_solver(renoising_flow: Any) -> None:
    denoise, noise = on(renoising_flow(LEVELS, 0.4, 100).to("cpu", F64))
    assert denoise.sampler.stochastic
    exact = sequential(denoise, noise).sample
    x = noise.initial
    for j, s in enumerate(LEVELS):
        after = LEVELS[j + 1] if j + 1 < len(LEVELS) else 0.0
        clean = denoise(x[None], slice(j, j + 1))[0]
        eps = (x - (1 - s) * clean) / s
        x = (1 - after) * clean + after * ((1 - 0.4**2) ** 0.5 * eps + 0.4 * noise.steps[j])
    assert float((exact - x).abs().max()) <= 1e-12
    for solver in (picard, anderson, coarse, paradigms):
        found = solver(denoise, noise, rounds=len(LEVELS)).sample
        assert float((found - exact).abs().max()) <= 1e-10


def test_without_its_noise_it_is_eulers_sampler(renoising_flow: Any) -> None:
    euler = build_sampler(NoiseSchedule("flow", 100), SamplerConfig("flow_euler", 5))
    own = renoising_flow([1.0, 0.8, 0.6, 0.4, 0.2], 0.0, 100)
    assert not own.stochastic
    for name in ("timesteps", "alpha", "sigma", "p", "M"):
        torch.testing.assert_close(getattr(own, name), getattr(euler, name))


def test_a_multistep_sampler_of_ones_own() -> None:
    """Any weight on the earlier prediction, against a plain loop."""
    s = torch.tensor(LEVELS, dtype=F64)
    decay = torch.cat([s[1:], s.new_zeros(1)]) / s
    gains = torch.stack([1 - decay, torch.full_like(s, 0.3)], dim=1)
    gains[0, 1] = 0.0
    denoise, noise = on(unroll_multistep(100 * s, 1 - s, s, decay, gains))
    x, earlier = noise.initial, torch.zeros_like(noise.initial)
    for j in range(len(LEVELS)):
        clean = denoise(x[None], slice(j, j + 1))[0]
        x = decay[j] * x + gains[j, 0] * clean + gains[j, 1] * earlier
        earlier = clean
    assert float((sequential(denoise, noise).sample - x).abs().max()) <= 1e-12
    assert float((picard(denoise, noise, rounds=len(LEVELS)).sample - x).abs().max()) <= 1e-10


def test_closer_timesteps_are_ddims_with_these_timesteps() -> None:
    names: dict[str, Any] = {}
    exec(files_shown(DOCS)["mine/closer.py"], names)
    SAMPLERS._parts.pop("closer")
    own = names["closer"](NoiseSchedule(), SamplerConfig(steps=9))
    visited = tuple(own.timesteps.long().tolist())
    ddim = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 9, timesteps=visited))
    for name in ("timesteps", "alpha", "sigma", "p", "M"):
        torch.testing.assert_close(getattr(own, name), getattr(ddim, name), check_dtype=False)
