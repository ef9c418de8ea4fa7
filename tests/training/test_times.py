"""How training draws noise levels."""

from pathlib import Path

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.training.denoising import Denoising
from tests.training.small import train

ROWS = 20_000
FLOW = {
    "schedule": NoiseSchedule("flow"),
    "prediction": "flow_velocity",
    "sampler": SamplerConfig("flow_euler"),
}


def config(flow: bool) -> PolicyConfig:
    more = FLOW if flow else {}
    return PolicyConfig(obs_dim=3, action_dim=2, action_steps=4, horizon=8, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("flow", [False, True])
def test_high_noise_follows_a_beta_distribution(flow: bool) -> None:
    """The share of levels up to ``k / 100`` is its cube; within four standard errors."""
    drawn = Denoising(config(flow), "high_noise").draw(ROWS, torch.Generator().manual_seed(0)).t
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) <= (100 if flow else 99)
    assert drawn.is_floating_point() == flow
    for k in (30, 60, 90):
        share = float((drawn <= (k if flow else k - 1)).float().mean())
        expected = (k / 100) ** 3
        assert abs(share - expected) < 4 * (expected * (1 - expected) / ROWS) ** 0.5


def test_even_levels_are_drawn_as_ever() -> None:
    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    found = Denoising(config(flow=False)).draw(64, first)
    assert found.t.equal(torch.randint(100, (64,), generator=second))
    assert found.noise.equal(torch.randn(64, 8, 2, generator=second))


def test_a_run_goes_on_with_the_same_times_alone(demos: Path, tmp_path: Path) -> None:
    train(demos, tmp_path, "times=high_noise", "train.steps=4")
    with pytest.raises(PcmError, match="times"):
        train(demos, tmp_path, "times=uniform", "train.steps=4", "resume=true")
