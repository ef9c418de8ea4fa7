"""Schedules of the head's share against So et al. 2025: lambda(k) = clip(1 - s k / K, 0, 1)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pcm_policy.denoise import Denoiser
from pcm_policy.errors import PcmError
from pcm_policy.heads.switching import ramp, step
from pcm_policy.noise import Noise
from pcm_policy.samplers import SamplerConfig, build_sampler
from pcm_policy.schedules import NoiseSchedule
from pcm_policy.solve import SolverConfig, solve
from pcm_policy.solvers import picard


@pytest.mark.parametrize(
    ("rounds", "stiffness", "expected"),
    [
        (4, 1.0, (1, 0.75, 0.5, 0.25)),
        (5, 2.0, (1, 0.6, 0.2, 0, 0)),
        (4, 0.5, (1, 0.875, 0.75, 0.625)),
        (3, 3.0, (1, 0, 0)),
        (3, 100.0, (1, 0, 0)),
        (1, 7.0, (1,)),
    ],
)
def test_ramp_by_hand(rounds: int, stiffness: float, expected: tuple[float, ...]) -> None:
    assert ramp(rounds, stiffness) == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 64), st.floats(1e-3, 1e3))
def test_ramp_is_the_papers_formula(rounds: int, stiffness: float) -> None:
    k = torch.arange(rounds, dtype=torch.float64)
    paper = (1 - stiffness * k / rounds).clamp(0, 1)
    found = ramp(rounds, stiffness)
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), paper)
    assert found[0] == 1
    assert list(found) == sorted(found, reverse=True)


@given(st.integers(0, 50))
def test_step(rounds: int) -> None:
    assert step(rounds) == (1.0,) * rounds


@pytest.mark.parametrize(("rounds", "stiffness"), [(0, 1.0), (-1, 1.0), (3, 0.0), (3, -1.0)])
def test_senseless_ramps_are_refused(rounds: int, stiffness: float) -> None:
    with pytest.raises(PcmError, match=r"solver\.stiffness"):
        ramp(rounds, stiffness)


def test_negative_step_is_refused() -> None:
    with pytest.raises(PcmError, match=r"solver\.pcm_rounds=-1"):
        step(-1)


def test_solver_config_chooses_the_schedule() -> None:
    assert SolverConfig("picard", rounds=4).strengths == ()
    assert SolverConfig("pcm", rounds=3).strengths == step(3)
    assert SolverConfig("pcm", rounds=5, pcm_rounds=2).strengths == step(2)
    assert SolverConfig("pcm", tolerance=0.1).strengths == step(2)
    assert SolverConfig("pcm", rounds=5, stiffness=2.0).strengths == ramp(5, 2.0)
    with pytest.raises(PcmError, match="give both"):
        SolverConfig("pcm", tolerance=0.1, stiffness=2.0)
    with pytest.raises(PcmError, match="pcm_rounds"):
        SolverConfig("pcm", rounds=5, pcm_rounds=2, stiffness=2.0)


def test_the_head_gets_its_round_and_share() -> None:
    """Rounds of share zero and rounds past the schedule's end are the base model's alone."""
    steps = 6
    sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", steps)).to("cpu", torch.float32)
    denoise = Denoiser(lambda x, t, cond: 0.5 * x.tanh(), sampler, torch.zeros(2, 1), "sample")
    noise = Noise(torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(0)))
    seen: list[tuple[int, float]] = []

    def head(denoise: Denoiser, states: Tensor, k: int, strength: float) -> Tensor:
        assert states.shape == (steps, 2, 3, 1)
        seen.append((k, strength))
        return denoise(states, slice(0, steps)) + strength

    found = picard(denoise, noise, rounds=5, head=head, strengths=ramp(4, 2.0))
    assert seen == [(0, 1.0), (1, 0.5)]
    assert found.rounds == 5

    class Module(torch.nn.Module):
        def forward(self, d: Denoiser, states: Tensor, rounds: Tensor, strength: float) -> Tensor:
            assert torch.equal(rounds, torch.full((2,), len(seen), dtype=torch.int64))
            return head(d, states, len(seen), strength)

    seen.clear()
    config = SolverConfig("pcm", rounds=4, pcm_rounds=2)
    solve(config, denoise, noise, Module())
    assert seen == [(0, 1.0), (1, 1.0)]
    with pytest.raises(PcmError, match="no PCM head"):
        solve(config, denoise, noise)
