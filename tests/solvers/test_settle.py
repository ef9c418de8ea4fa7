"""Rows that stop by themselves (``solver.settle``): each as if it were alone, and no sooner."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.export import fixed
from pcm_policy.measure.exactness import paired_noise
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.places import RELEASED
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.episode_policy import EpisodePolicy
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.solvers import PCM, Settle
from pcm_policy.solvers.registry import Solver
from tests.problems import B, N, make_head, problem
from tests.solving import anderson, coarse, picard

LEVELS = [1e-6, 0.003, 0.03, 0.3, 10.0]
RELEASE: Path = RELEASED / "pusht_mlp"


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["picard", "anderson", "coarse", "pcm"])
def test_a_row_stops_as_it_would_alone(name: str, level: float) -> None:
    """By hand: the rounds of a fixed solve, up to the first that moved the sample by less."""
    denoise, noise = problem(batch=5)
    head = make_head("window", denoise)
    solver = {
        "picard": picard,
        "anderson": anderson,
        "coarse": coarse,
        "pcm": partial(picard, head=head, shares=(1.0, 1.0)),
    }[name]
    samples: list[Tensor] = []
    solver(denoise, noise, rounds=N, watch=lambda x: samples.append(x[-1].clone()))
    cold = denoise.sampler.p[-1] * noise.initial
    found = solver(denoise, noise, rounds=N, settle=level)
    assert found.row_rounds is not None
    assert not found.certified[found.row_rounds < N].any()  # N rounds are the sampler itself
    for b in range(5):
        path = [cold[b], *(x[b] for x in samples)]
        moves = [float((y - x).square().mean().sqrt()) for x, y in pairwise(path)]
        stop = next((k for k, move in enumerate(moves, 1) if move <= level), N)
        assert int(found.row_rounds[b]) == stop
        torch.testing.assert_close(found.sample[b], path[stop], rtol=0, atol=1e-5)
    assert found.rounds == int(found.row_rounds.max()) == len(found.residuals)


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize("shared", [None, False, True])
def test_some_rows_of_a_denoiser(encoded: bool, shared: bool | None) -> None:
    """A prefix may hold for all rows, or be each row's own."""
    denoise, noise = problem(batch=5)
    if shared is not None:
        known = torch.zeros(1 if shared else 5, noise.initial.shape[1], 1, dtype=torch.bool)
        known[:, 0] = True
        denoise = replace(denoise, prefix=Prefix(torch.rand_like(noise.initial), known))
    denoise = denoise.encode() if encoded else denoise
    x, rows = torch.randn(N, *noise.initial.shape), torch.tensor([3, 0])
    whole = denoise(x, slice(0, N))[:, rows]
    picked = denoise.pick(rows)(x[:, rows], slice(0, N))
    torch.testing.assert_close(picked, whole, rtol=0, atol=1e-6)


@torch.no_grad()
def test_the_released_policy_spends_rounds_where_they_are_needed() -> None:
    policy = DiffusionPolicy.from_pretrained(RELEASE)
    obs = torch.as_tensor(held_out_observations(RELEASE)[:64])
    solver = policy.solver({"method": "pcm", "settle": 0.02})
    assert isinstance(solver.step, PCM)
    assert (solver.stop.rounds, solver.step.shares) == (Settle().rounds, (1.0, 1.0))
    noise = paired_noise(policy, solver, len(obs))
    found = policy.solve(obs, solver, noise)
    exact = policy.solve(obs, Solver.of("sequential", solver.sampler), noise).sample
    assert found.row_rounds is not None
    assert set(found.row_rounds.tolist()) >= {1, 2, 3}
    error = (found.sample - exact).square().mean(dim=(1, 2)).sqrt()
    two = policy.solve(obs, policy.solver({"method": "pcm", "rounds": 2}), noise).sample
    before = (two - exact).square().mean(dim=(1, 2)).sqrt()
    late = found.row_rounds > 2
    assert float(error[late].mean()) < 0.5 * float(before[late].mean())
    alone = policy.solve(obs[:1], solver, noise.row(0))
    assert alone.rounds == int(found.row_rounds[0])


def test_episodes_count_the_rounds_of_every_row() -> None:
    policy = DiffusionPolicy.from_pretrained(RELEASE)
    obs = held_out_observations(RELEASE)[:16]
    solver = policy.solver({"method": "pcm", "settle": 0.02})
    runner = EpisodePolicy(policy, solver)
    runner(np.asarray(obs), np.arange(16), np.zeros(16, np.int64))
    alone = []
    for i in range(16):
        one = EpisodePolicy(policy, solver)
        one(np.asarray(obs[i : i + 1]), np.array([i]), np.zeros(1, np.int64))
        alone.append(one.mean_rounds)
    assert runner.mean_rounds == pytest.approx(np.mean(alone))
    assert 1 < runner.mean_rounds < 4


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "sequential"},
        {"method": "paradigms"},
        {"method": "picard", "tolerance": 0.1},
        {"method": "picard", "settle": 0.0},
    ],
)
def test_what_it_does_not_go_with(wrong: dict[str, object]) -> None:
    with pytest.raises(PcmError, match=r"settle"):
        Solver.of(**{"settle": 0.1} | wrong)  # type: ignore[arg-type]


@torch.no_grad()
@pytest.mark.parametrize("window", [2, 5])
def test_a_window_moves_the_chunk_only_once_it_has_reached_it(window: int) -> None:
    """A window that slides by one a round gets there after ``N - window`` rounds."""
    denoise, noise = problem(batch=B)
    found = picard(denoise, noise, rounds=N, settle=1e9, window=window)
    assert found.row_rounds is not None
    assert set(found.row_rounds.tolist()) == {N - window + 1}


@torch.no_grad()
def test_rows_that_have_settled_keep_their_predictions() -> None:
    """So that the residuals of the rounds after that say that nothing moved."""
    denoise, noise = problem(batch=5)
    found = picard(denoise, noise, rounds=N, settle=0.03)
    assert found.row_rounds is not None
    over = torch.arange(found.rounds)[:, None] >= found.row_rounds
    assert over.any()
    assert float(found.residuals[over].max()) <= 1e-5


def test_where_rounds_are_fixed_it_is_refused() -> None:
    solver = Solver.of("picard", rounds=3, settle=0.1)
    with pytest.raises(PcmError, match="no tolerance, settle or deadline"):
        fixed(solver)
