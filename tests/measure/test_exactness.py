"""Exactness figures against arrays worked out by hand, on the released policy."""

import numpy as np
import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.measure.exactness import (
    certification,
    certified_solver,
    chunk_error,
    exactness_report,
    paired_noise,
    settle_level,
    settling,
    solved,
)
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

NAME = "released/pusht_mlp"


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained(NAME)


@pytest.fixture(scope="module")
def obs() -> torch.Tensor:
    return held_out_observations(NAME)[::16]


def test_errors_are_in_pixels(policy: DiffusionPolicy, obs: torch.Tensor) -> None:
    """Against two predictions of every observation alone and plain numpy."""
    assert policy.config.head is not None
    sampler = policy.config.head.sampler
    wanted = Solver.of("sequential", sampler)
    solver = policy.solver({"method": "pcm", "rounds": 1})
    error = chunk_error(solved(policy, solver, obs, 7), solved(policy, wanted, obs, 7))
    chunks, samples = [], []
    for i, frame in enumerate(obs.numpy()):
        noise = episode_noise([7 + i], [0], (16, 2), sampler.steps)
        pair = [policy.predict(frame, solver=s, noise=noise) for s in (solver, wanted)]
        chunks.append([p.chunk[0] for p in pair])
        samples.append([p.solve.sample[0].numpy() for p in pair])
    raw = np.abs(np.diff(np.array(chunks), axis=1))
    rmse = np.sqrt(np.square(np.diff(np.array(samples), axis=1)).mean(axis=(1, 2, 3)))
    assert error.mean == pytest.approx(raw.mean(), rel=1e-3)
    assert error.largest == pytest.approx(raw.max(), rel=1e-3)
    assert error.rmse == pytest.approx(rmse.mean(), rel=1e-3)
    assert error.rmse_p95 == pytest.approx(np.percentile(rmse, 95), rel=1e-3)
    assert error.largest > 0.5  # pixels of 512


def test_noise_is_paired_over_solvers(policy: DiffusionPolicy) -> None:
    slow = Solver.of("sequential", SamplerConfig("ddpm", 100))
    drawn = paired_noise(policy, slow, 3, seed=5)
    assert drawn.steps is not None
    assert torch.equal(
        drawn.initial[2],
        paired_noise(policy, Solver.of("sequential", SamplerConfig()), 1, seed=7).initial[0],
    )


def test_certified_chunks_are_the_base_chunk(policy: DiffusionPolicy, obs: torch.Tensor) -> None:
    for tolerance in (1e-2, 1e-3):
        found = certification(policy, certified_solver(policy, tolerance), obs[:6])
        assert 1 < found.rounds <= found.worst_rounds <= 16
        assert found.worst_error <= tolerance


@pytest.mark.parametrize("mean", [1.2, 1.5, 2.0, 3.0])
def test_the_level_spends_so_many_rounds(
    policy: DiffusionPolicy, obs: torch.Tensor, mean: float
) -> None:
    """No more than asked for, and a level a hundredth lower would."""
    level = settle_level(policy, obs, mean, seed=3)
    counts = []
    for at in (level, 0.98 * level):
        solver = settling(policy, at)
        alone = [solved(policy, solver, obs[i : i + 1], 3 + i).rounds for i in range(len(obs))]
        counts.append(np.mean(alone))
    assert counts[0] <= mean
    assert mean - counts[0] <= 2 / len(obs)
    assert counts[1] >= counts[0]


def test_a_mean_that_cannot_be_is_refused(policy: DiffusionPolicy, obs: torch.Tensor) -> None:
    for mean in (1.0, 4.0):
        with pytest.raises(PcmError, match="more than 1 and less than 4"):
            settle_level(policy, obs, mean)


def test_the_report_counts_from_one_round_on(policy: DiffusionPolicy, obs: torch.Tensor) -> None:
    text = exactness_report(policy, obs, policy)
    assert text.startswith("Action error to the sequential ddim-16 chunk over 16 held-out")
    assert text.count("| pcm 4 head 2 then linearised settle ") == 2
    for label in (
        "pcm 1 (ddim-16)",
        "pcm 4 head 2 then linearised (ddim-16)",
        "picard tol 0.01 (ddim-16)",
    ):
        assert f"| {label} |" in text
