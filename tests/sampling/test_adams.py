"""Adams-Bashforth steps against a plain loop over polynomials, and against what they follow."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.polynomial import polynomial
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.adams import ORDER, begins
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing, flow_levels
from tests.sampling.test_samplers_diffusers import Wobble, draw
from tests.solving import sequential

FLOW = NoiseSchedule("flow", 100)


def ours(config: SamplerConfig) -> tuple[Denoiser, Noise]:
    noise, cond = draw(config.steps)
    sampler = build_sampler(FLOW, config)
    return Denoiser(Wobble(100), sampler, cond, "flow_velocity", clip=None), noise


def chunk(name: str, steps: int, follows: int = 0, shift: float = 1.0) -> Tensor:
    config = SamplerConfig(name, steps, follows=follows, shift=shift)  # type: ignore[arg-type]
    return sequential(*ours(config)).sample


def by_polynomials(config: SamplerConfig, levels: list[float], ends: list[int]) -> Tensor:
    """Every Euler step by itself, or NumPy's integral, of a polynomial through the velocities."""
    denoise, noise = ours(config)
    x = noise.initial
    seen: list[tuple[float, np.ndarray]] = []
    begin = 0
    for j, end in enumerate(ends):
        s = levels[begin]
        shown = denoise.sampler.timesteps[j].expand(x.shape[0])
        v = denoise.network(x, shown, denoise.cond)
        seen = [*seen, (s, v.numpy().ravel())][-ORDER:]
        at, values = np.array([a for a, _ in seen]), np.array([b for _, b in seen])
        # of the velocity's polynomial in s - s_j, all entries at once
        fitted = np.linalg.solve(np.vander(at - s, increasing=True), values)
        if config.follows:
            spent = sum(
                (levels[k + 1] - levels[k]) * polynomial.polyval(levels[k] - s, fitted)
                for k in range(begin, end)
            )
        else:
            whole = polynomial.polyint(fitted, axis=0)
            spent = polynomial.polyval(levels[end] - s, whole)
        x = x + torch.from_numpy(np.asarray(spent)).view_as(x)
        begin = end
    return x


@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("follows", [0, 16, 100])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 9, 16])
def test_steps_are_those_of_the_polynomial(
    steps: int, follows: int, shift: float, spacing: Spacing
) -> None:
    config = SamplerConfig("flow_adams", steps, spacing, shift=shift, follows=follows)
    count = follows or 10_000
    levels = [*flow_levels(100, count, spacing, shift).tolist(), 0.0]
    ends = [*begins(steps, count).tolist()[1:], count]
    expected = by_polynomials(config, levels, ends)
    found = sequential(*ours(config)).sample
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_following_as_many_steps_is_eulers_loop(steps: int, shift: float) -> None:
    same = chunk("flow_adams", steps, follows=steps, shift=shift)
    torch.testing.assert_close(same, chunk("flow_euler", steps, shift=shift), rtol=0, atol=1e-10)


def test_twice_the_steps_leave_less_than_a_quarter_of_the_error() -> None:
    """To the loop and to the flow's end; the first steps have fewer velocities to use."""
    end = chunk("flow_adams", 2000)
    for follows, exact in ((0, end), (1000, chunk("flow_euler", 1000))):
        errors = [
            float((chunk("flow_adams", steps, follows) - exact).abs().max())
            for steps in (32, 64, 128)
        ]
        for coarse, fine in pairwise(errors):
            assert coarse > 4 * fine
    assert float((end - chunk("flow_euler", 4000)).abs().max()) < 1e-3


@pytest.mark.parametrize("steps", [16, 20, 24])
def test_it_comes_nearer_to_the_loop_than_a_sampler_that_only_follows_the_flow(steps: int) -> None:
    loop = chunk("flow_euler", 100)
    followed = float((chunk("flow_adams", steps, follows=100) - loop).abs().max())
    assert 3 * followed < float((chunk("flow_2m", steps) - loop).abs().max())
    assert 3 * followed < float((chunk("flow_adams", steps) - loop).abs().max())


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (5, 5), (9, 10), (30, 33), (12, 100)])
def test_steps_begin_at_levels_of_their_own(steps: int, count: int) -> None:
    at = begins(steps, count)
    assert at[0] == 0
    assert at[-1] < count
    assert bool((at.diff() > 0).all())


def test_more_steps_than_are_followed_are_refused() -> None:
    with pytest.raises(PcmError, match="follows=8 with steps=9: flow_adams has at most as many"):
        build_sampler(FLOW, SamplerConfig("flow_adams", 9, follows=8))
