"""What a robot remembers in numpy is what a policy's planner remembers in torch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.draws import Draws, draw
from pcm_policy.robot import memory as robot
from pcm_policy.sampling.affine import clean_predictions
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SAMPLERS, SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.serving import memory as serving
from pcm_policy.solvers.system import forcing

SEEDS = st.integers(0, 2**31)


def noise_of(drawn: Draws) -> Noise:
    steps = None if drawn.steps is None else torch.from_numpy(drawn.steps)
    return Noise(torch.from_numpy(drawn.initial), steps)


@settings(max_examples=40)
@given(SEEDS, st.integers(0, 12), st.integers(1, 9), st.sampled_from([0, 3]))
def test_shifts(seed: int, executed: int, horizon: int, steps: int) -> None:
    old, new = (draw([seed], [tick], (horizon, 2), steps) for tick in (0, 1))
    want = serving.shift_noise(noise_of(old), noise_of(new), executed)
    found = robot.shift_noise(old, new, executed)
    np.testing.assert_array_equal(found.initial, want.initial.numpy())
    if want.steps is not None:
        assert found.steps is not None
        np.testing.assert_array_equal(found.steps, want.steps.numpy())
    chunk = serving.shift_chunk(torch.from_numpy(old.initial), executed)
    np.testing.assert_array_equal(robot.shift_chunk(old.initial, executed), chunk.numpy())


@pytest.mark.parametrize("name", [n for n in SAMPLERS if not SAMPLERS.find(n).flow])
def test_predictions_behind_a_trajectory(name: str) -> None:
    config = SamplerConfig(name, 8)
    try:
        sampler = build_sampler(NoiseSchedule(), config).to("cpu", torch.float32)
    except ValueError:
        pytest.skip(f"{name} has no such schedule")
    drawn = draw([1], [0], (4, 2), sampler.noise_steps)
    forced = forcing(sampler, noise_of(drawn))
    states = forced + torch.randn(forced.shape, generator=torch.Generator().manual_seed(0))
    want = clean_predictions(sampler, states, forced)
    found = robot.clean_predictions(sampler.M.numpy(), states.numpy(), forced.numpy())
    torch.testing.assert_close(torch.from_numpy(found), want, rtol=1e-5, atol=1e-4)
