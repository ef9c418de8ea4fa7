"""Requests to plans: batches, memory, prefixes, against the policy called by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pcm_policy.control import PlanRequest
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.affine import clean_predictions
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.serving.memory import Memory
from pcm_policy.serving.planner import KINDS, Planner
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.system import forcing

OBS = held_out_observations("released/pusht_mlp").numpy()
NONE = np.zeros((0, 2), np.float32)


def request(i: int, **changes: object) -> PlanRequest:
    base = PlanRequest(id=i, seed=i, tick=3 * i, clock=0.0, obs=OBS[7 * i], prefix=NONE)
    return replace(base, **changes)  # type: ignore[arg-type]


def test_equals_predict(policy: DiffusionPolicy, planner: Planner) -> None:
    plans = planner.plan_batch([request(i) for i in range(3)])
    noise = episode_noise([0, 1, 2], [0, 3, 6], (16, 2))
    found = policy.predict(OBS[:15:7][:3], noise=noise)
    for row, plan in enumerate(plans):
        np.testing.assert_array_equal(plan.actions, found.chunk[row, 1:])
        assert plan.memory is None
        assert plan.fault is None


PREFIX = OBS[0, :1, 18:20].repeat(3, 0)
CHANGES: dict[str, dict[str, object]] = {
    "plain": {},
    "coupled": {"couple_noise": True},
    "prefix": {"prefix": PREFIX, "past": 1},
    "prefix_input": {"prefix": PREFIX, "prefix_input": True},
    "warm": {"warm_start": "trajectory", "couple_noise": True},
    "warm_prefix": {"warm_start": "chunk", "prefix": PREFIX},
    "warm_prefix_input": {"warm_start": "trajectory", "prefix": PREFIX, "prefix_input": True},
}


@pytest.mark.parametrize("beside", CHANGES)
@pytest.mark.parametrize("mine", CHANGES)
def test_rows_do_not_know_each_other(planner: Planner, mine: str, beside: str) -> None:
    """Whatever a neighbour asks for, at one batch and row a request's plan is the same."""
    (first,) = planner.plan_batch([request(1, **CHANGES[mine])], [1], 4)
    again = request(4, **CHANGES[mine], memory=first.memory, executed=5)
    (alone,) = planner.plan_batch([again], [1], 4)
    (other,) = planner.plan_batch([request(2, **CHANGES[beside])], [0], 4)
    neighbour = request(5, **CHANGES[beside], memory=other.memory, executed=3)
    together = planner.plan_batch([neighbour, again], [0, 1], 4)
    np.testing.assert_array_equal(together[1].actions, alone.actions)
    assert [p.id for p in together] == [5, 4]


def test_kinds_and_examples(planner: Planner) -> None:
    for kind in KINDS:
        assert planner.kind(planner.example(kind)) == kind
        (plan,) = planner.plan_batch([planner.example(kind)])
        assert plan.fault is None
    assert not planner.compiles


def test_a_diverged_row_harms_nobody(planner: Planner) -> None:
    bad = request(1, obs=np.full((2, 20), np.nan, np.float32))
    plans = planner.plan_batch([request(0), bad, request(2)])
    assert [p.fault is None for p in plans] == [True, False, True]
    (good,) = planner.plan_batch([request(0)], [0], 3)
    np.testing.assert_array_equal(plans[0].actions, good.actions)


def test_prefix_is_in_the_chunk(policy: DiffusionPolicy) -> None:
    exact = Planner(policy, policy.solver({"method": "sequential"}))
    base = exact.plan(request(1))
    frozen = base.actions[:4] + np.float32(10)
    plan = exact.plan(request(1, prefix=frozen))
    np.testing.assert_allclose(plan.actions[:4], frozen, atol=2e-2)
    found = policy.predict(
        OBS[7],
        solver=exact.solver,
        noise=episode_noise([1], [3], (16, 2)),
        prefix=policy.known_prefix(frozen[None]),
    )
    np.testing.assert_array_equal(plan.actions, found.chunk[0, 1:])
    past = exact.plan(request(1, prefix=frozen, past=1))  # one step earlier
    np.testing.assert_allclose(past.actions[:3], frozen[1:], atol=2e-2)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_predictions_behind_a_trajectory(policy: DiffusionPolicy, name: str) -> None:
    config = SamplerConfig(name, 100) if name == "ddpm" else policy.config.sampler
    sampler = policy.sampler(config)
    noise = episode_noise([0, 1], [0, 0], (16, 2), config.steps if sampler.stochastic else 0)
    obs = torch.from_numpy(OBS[:2])
    found = policy.solve(obs, Solver.of("sequential", config), noise)
    back = clean_predictions(sampler, found.trajectory, forcing(sampler, noise))
    denoise = policy.denoiser(policy.condition(obs), config)
    with torch.no_grad():
        direct = denoise(found.trajectory[:-1], slice(0, config.steps))
    torch.testing.assert_close(back, direct, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_warm_start_of_the_same_situation_is_exact_at_once(
    policy: DiffusionPolicy, name: str
) -> None:
    """Nothing was executed and nothing changed: one round from the old trajectory is enough."""
    solver = policy.solver({"method": "picard", "sampler": name, "tolerance": 1e-4})
    planner = Planner(policy, solver)
    first = planner.plan(request(2, warm_start="trajectory", couple_noise=True))
    assert isinstance(first.memory, Memory)
    assert first.certified
    again = request(2, warm_start="trajectory", couple_noise=True, memory=first.memory, tick=99)
    quick = Planner(policy, policy.solver({"method": "picard", "sampler": name, "rounds": 1}))
    second = quick.plan(again)
    np.testing.assert_allclose(second.actions, first.actions, atol=0.1)


@pytest.mark.parametrize(("method", "same"), [("pcm", "off"), ("picard", "trajectory")])
def test_auto_starts_where_it_is_nearer(policy: DiffusionPolicy, method: str, same: str) -> None:
    """The released head says where to start; Picard has nothing better than the last solve."""
    planner = Planner(policy, policy.solver({"method": method, "rounds": 2}))
    first = planner.plan(request(1, warm_start="auto", couple_noise=True))
    assert isinstance(first.memory, Memory)
    found = {}
    for kind in ("auto", "off", "trajectory"):
        again = request(2, warm_start=kind, couple_noise=True, memory=first.memory, executed=5)
        found[kind] = planner.plan(again).actions
    np.testing.assert_array_equal(found["auto"], found[same])
    assert np.abs(found["off"] - found["trajectory"]).max() > 0.01
