"""Warm starts and coupled noise: nothing moves the fixed point, the noise stays standard normal."""

from statistics import NormalDist

import numpy as np
import torch

from pcm_policy.sampling.noise import Noise
from pcm_policy.serving.memory import shift_chunk, shift_noise
from tests.problems import F64, N, distance, problem
from tests.solving import picard, sequential


def test_a_plan_moves_forward_and_repeats_its_last_action() -> None:
    chunk = torch.arange(10.0).view(1, 5, 2)
    assert torch.equal(shift_chunk(chunk, 0), chunk)
    assert shift_chunk(chunk, 3)[0, :, 0].tolist() == [6.0, 8.0, 8.0, 8.0, 8.0]
    assert shift_chunk(chunk, 9)[0, :, 0].tolist() == [8.0] * 5
    assert shift_chunk(chunk.expand(3, 1, 5, 2), 2).shape == (3, 1, 5, 2)


def test_a_warm_start_moves_no_fixed_point() -> None:
    denoise, noise = problem(F64, name="ddpm")
    exact = sequential(denoise, noise)
    for executed in (1, 3):
        guess = shift_chunk(exact.sample, executed)
        assert distance(picard(denoise, noise, rounds=N, guess=guess), exact) <= 1e-10
        warm = picard(denoise, noise, tolerance=1e-10, guess=guess)
        assert distance(warm, exact) <= 1e-9


def test_coupled_noise_keeps_the_old_and_fills_in_the_fresh() -> None:
    gen = torch.Generator().manual_seed(0)
    old, new = (
        Noise(torch.randn(2, 6, 3, generator=gen), torch.randn(4, 2, 6, 3, generator=gen))
        for _ in range(2)
    )
    shifted = shift_noise(old, new, 2)
    assert torch.equal(shifted.initial[:, :4], old.initial[:, 2:])
    assert torch.equal(shifted.initial[:, 4:], new.initial[:, 4:])
    assert shifted.steps is not None
    assert old.steps is not None
    assert new.steps is not None
    assert torch.equal(shifted.steps[:, :, :4], old.steps[:, :, 2:])
    assert torch.equal(shifted.steps[:, :, 4:], new.steps[:, :, 4:])
    assert torch.equal(shift_noise(old, new, 6).initial, new.initial)
    assert torch.equal(shift_noise(old, new, 99).initial, new.initial)


def test_coupled_noise_is_standard_normal_and_white_after_many_shifts() -> None:
    """Over 4000 chains of ten shifts: every entry N(0, 1), no two entries correlated."""
    gen = torch.Generator().manual_seed(3)

    def fresh() -> Noise:
        return Noise(torch.randn(4000, 8, 2, generator=gen), None)

    noise = fresh()
    for executed in (3, 1, 4, 8, 2, 5, 3, 3, 1, 7):
        noise = shift_noise(noise, fresh(), executed)
    values = noise.initial.flatten(1).double().numpy()
    cdf = np.vectorize(NormalDist().cdf)(np.sort(values, axis=0))
    rank = np.arange(1, len(values) + 1)[:, None] / len(values)
    kolmogorov = np.abs(cdf - rank).max(axis=0) * np.sqrt(len(values))
    assert kolmogorov.max() < 2.4  # p = 2e-5 for one entry, 3e-4 for the sixteen
    correlation = np.corrcoef(values.T) - np.eye(values.shape[1])
    assert np.abs(correlation).max() < 5 / np.sqrt(len(values))
