"""The drifting field against a loop over pairs, and a short training."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.peers import drifting
from benchmarks.peers.drifting import drift, generator_of
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.solvers.registry import Solver


@pytest.mark.parametrize(("samples", "positives"), [(2, 1), (4, 1), (3, 5)])
def test_the_field_is_a_loop_over_pairs(samples: int, positives: int) -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(2, samples, 6, generator=draws, dtype=torch.float64)
    wanted = torch.randn(2, positives, 6, generator=draws, dtype=torch.float64)
    found = drift(x, wanted, (0.8, 3.0))
    for b in range(2):
        for i in range(samples):
            here, mean = x[b, i], torch.zeros(6, dtype=torch.float64)
            for width in (0.8, 3.0):
                top, below = torch.zeros(6, dtype=torch.float64), 0.0
                others = [x[b, j] for j in range(samples) if j != i]
                for sign, some in ((1, list(wanted[b])), (-1, others)):
                    for y in some:
                        far = math.sqrt(float((y - here).square().sum()))
                        kernel = math.exp(-far / width) / len(some)
                        top, below = top + sign * kernel * (y - here), below + kernel
                mean = mean + top / below / 2
            torch.testing.assert_close(found[b, i], mean, rtol=1e-9, atol=1e-9)


def test_equal_samples_at_the_wanted_one_rest() -> None:
    x = torch.ones(1, 3, 4)
    assert drift(x, torch.ones(1, 1, 4), (1.0,)).abs().max() < 1e-6


def test_the_policy_is_one_call_from_noise() -> None:
    base = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    policy = generator_of(base)
    obs = torch.full((2, 2, 20), 256.0)
    solver = Solver.of("sequential", policy.config.sampler)
    noise = paired_noise(policy, solver, 2)
    found = policy.solve(obs, solver, noise)
    with torch.no_grad():
        chunk = base.network(noise.initial, torch.tensor([99, 99]), base.condition(obs))
    assert found.rounds == 1
    torch.testing.assert_close(found.sample, chunk.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("base", ["released/pusht", "released/pusht_mlp"])
def test_the_command(demos: Path, tmp_path: Path, base: str) -> None:
    words = [str(demos), str(tmp_path), "--policy", base, "--steps", "2"]
    drifting.main(words)
    policy = DiffusionPolicy.from_pretrained(tmp_path / "policy")
    assert (policy.config.prediction, policy.config.sampler.steps) == ("sample", 1)
    assert policy.head is None
