"""The mechanism on the released policies: what switching is for, and what happens off the data."""

import pytest
import torch
from torch import Tensor

from benchmarks.study.perturbed import situations
from pcm_policy.measure.exactness import certified_solver, solved
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import Adaptive
from pcm_policy.solvers.pcm import ramp
from pcm_policy.solvers.registry import Solver

EVERY = {"released/pusht_mlp": 4, "released/pusht": 32}
"""Policies and which of their observations are taken; the second draws noise in every step."""
OFTEN = {"released/pusht_mlp": 1, "released/pusht": 4}
"""The same where means are compared."""
RESTING = {"released/pusht_mlp": 0.9, "released/pusht": 0.6}
"""Least share of rows that come to rest under a head alone: 5 of 8 of the second one's."""
LOST = {"released/pusht_mlp": 0, "released/pusht": 1}
"""Rounds, beside the head's own, that a first jump off the data may lose."""
TOLERANCE = 1e-2


@pytest.fixture(scope="module", params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def policy(name: str) -> DiffusionPolicy:
    return DiffusionPolicy.from_pretrained(name)


@pytest.fixture(scope="module")
def obs(name: str) -> Tensor:
    return held_out_observations(name)[:: EVERY[name]]


def sampler(policy: DiffusionPolicy) -> SamplerConfig:
    assert policy.config.head is not None
    return policy.config.head.sampler


def exact(policy: DiffusionPolicy, obs: Tensor) -> Tensor:
    return solved(policy, Solver.of("sequential", sampler(policy)), obs).sample


def largest(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).abs().amax(dim=(1, 2))


def test_a_head_alone_ends_elsewhere(policy: DiffusionPolicy, obs: Tensor, name: str) -> None:
    """Most rows come to rest, others wander, and no chunk is the base's."""
    rounds = 4 * sampler(policy).steps
    alone = solved(policy, Solver.of("pcm", sampler(policy), rounds=rounds), obs)
    assert (alone.residuals[-1] < 1e-3).float().mean() >= RESTING[name]
    off = largest(alone.sample, exact(policy, obs))
    assert off.min() > 1e-4  # what switching reaches, below
    assert off.mean() > 1e-3


@pytest.mark.parametrize(
    "switching", [(1.0,), (1.0,) * 3, 2.5, 8.0], ids=["1", "3", "ramp 2.5", "ramp 8"]
)
def test_with_switching_the_end_is_the_base_chunk(
    policy: DiffusionPolicy, obs: Tensor, switching: tuple[float, ...] | float
) -> None:
    steps = sampler(policy).steps
    rounds = 2 * steps if isinstance(switching, float) else steps + 3
    shares = ramp(rounds, switching) if isinstance(switching, float) else switching
    solver = policy.solver({"method": "pcm", "rounds": rounds, "shares": shares})
    found = solved(policy, solver, obs)
    assert largest(found.sample, exact(policy, obs)).max() <= 1e-4


def test_errors_off_the_data_grow_by_less_than_two(policy: DiffusionPolicy, name: str) -> None:
    obs = held_out_observations(name)[:: OFTEN[name]]
    solver = Solver.of("pcm", sampler(policy), rounds=2)
    errors = {}
    for kind, seen in situations(obs).items():
        off = solved(policy, solver, seen).sample - exact(policy, seen)
        errors[kind] = float(off.square().mean(dim=(1, 2)).sqrt().mean())
    for kind, error in errors.items():
        assert error < 2 * errors["held out"], kind


def nonsense(policy: DiffusionPolicy, obs: Tensor) -> Tensor:
    """Numbers from the training range that belong to no block."""
    low, high = policy.obs_normalizer.low, policy.obs_normalizer.high
    return low + (high - low) * torch.rand(obs.shape, generator=torch.Generator().manual_seed(0))


def test_where_the_head_is_unsure_the_residual_says_so(
    policy: DiffusionPolicy, obs: Tensor
) -> None:
    """A base round after two of the head: its residual covers their error, on the data and off."""
    two = Solver.of("pcm", sampler(policy), rounds=2)
    measured = policy.solver({"method": "pcm", "rounds": 3, "shares": [1.0, 1.0]})
    errors, residuals = [], []
    for seen in (obs, nonsense(policy, obs)):
        errors.append(largest(solved(policy, two, seen).sample, exact(policy, seen)))
        residuals.append(solved(policy, measured, seen).residuals[-1])
        assert (errors[-1] <= measured.stop.safety * residuals[-1]).float().mean() > 0.98
    logs = torch.stack([torch.cat(errors), torch.cat(residuals)]).log()
    assert torch.corrcoef(logs)[0, 1] > 0.9


@pytest.mark.parametrize("seen_as", ["held out", "nonsense", "broken head"])
def test_adaptive_switching_falls_back_and_stays_certified(
    policy: DiffusionPolicy, obs: Tensor, name: str, seen_as: str
) -> None:
    """Row by row, as in use: off the data it costs rounds, never the certificate."""
    if seen_as == "nonsense":
        obs = nonsense(policy, obs)
    if seen_as == "broken head":
        policy = DiffusionPolicy.from_pretrained(name)
        assert policy.head is not None
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in policy.head.parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    solver = certified_solver(policy, TOLERANCE)
    assert isinstance(solver.step, Adaptive)
    found = solved(policy, solver, obs)
    assert found.certified.all()
    assert largest(found.sample, exact(policy, obs)).max() <= TOLERANCE
    plain = solved(policy, Solver.of("picard", sampler(policy), tolerance=TOLERANCE), obs)
    assert found.rounds <= plain.rounds + solver.step.head_rounds + LOST[name]
