"""Where a solve starts: from zeros, a guess, or what the head says, clipped as the base is."""

from dataclasses import replace

import torch

from pcm_policy.sampling.noise import generator_noise
from pcm_policy.solvers import Picard, Tolerance, start
from tests.builders import ACTION_DIM, HORIZON, OBS_DIM, STEPS, small_policy

GUESSING = {"width": 12, "guess_width": 8}


@torch.no_grad()
def test_a_heads_own_start_is_clipped_as_predictions_are() -> None:
    policy = small_policy(head="window", head_options=GUESSING)
    assert policy.head is not None
    for weight in policy.head.parameters():
        weight.mul_(20)
    cond = policy.condition(torch.randn(3, 2, OBS_DIM, generator=torch.Generator().manual_seed(0)))
    denoise = policy.denoiser(cond, policy.config.sampler)
    noise = generator_noise(torch.Generator().manual_seed(1), 3, (HORIZON, ACTION_DIM), 0)
    s, cold = start(denoise, noise, head=policy.head)
    own = policy.head.start(s)
    assert own is not None
    assert own.abs().max() > 1
    assert torch.equal(cold.P, own.clamp(-1, 1).expand(STEPS, *own.shape))
    assert not cold.cold
    guess = torch.full_like(own, 0.5)
    guess[1] = torch.nan  # this row has no guess: it takes the head's
    mixed = start(denoise, noise, guess, policy.head)[1].P[0]
    assert torch.equal(mixed[1], own[1].clamp(-1, 1))
    assert torch.equal(mixed[::2], guess[::2])


def test_without_head_and_guess_it_starts_from_zeros() -> None:
    policy = small_policy()
    denoise = policy.denoiser(policy.condition(torch.zeros(2, 2, OBS_DIM)), policy.config.sampler)
    noise = generator_noise(torch.Generator().manual_seed(1), 2, (HORIZON, ACTION_DIM), 0)
    _, x = start(denoise, noise)
    assert x.cold
    assert not x.P.any()
    guess = torch.full((2, HORIZON, ACTION_DIM), torch.nan)
    _, told = start(denoise, noise, guess)
    assert not told.cold
    assert torch.equal(told.P, x.P)


@torch.no_grad()
def test_a_row_that_is_over_stays_over_when_a_window_does_not_reach_its_end() -> None:
    """As after a head between base rounds: the window begins again, and the row does not."""
    policy, stop = small_policy(), Tolerance(error=1e-9)
    denoise = policy.denoiser(policy.condition(torch.ones(2, 2, OBS_DIM)), policy.config.sampler)
    noise = generator_noise(torch.Generator().manual_seed(1), 2, (HORIZON, ACTION_DIM), 0)
    s, x = start(denoise, noise)
    x = replace(stop.begin(x), front=torch.tensor([STEPS, 0]))
    r, _ = Picard(window=2).step(s, x, None)
    now, _ = stop.after(r)
    assert now.front is not None
    assert now.front.tolist()[0] == STEPS
    assert now.front.tolist()[1] < STEPS
    assert torch.equal(now.X[:, 0], x.X[:, 0])
