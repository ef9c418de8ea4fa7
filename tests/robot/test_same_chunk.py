"""A robot's folder gives the chunk of the policy that it was made from, for the same noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pcm_policy.control import PlanRequest
from pcm_policy.draws import Draws, draw
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.serving.planner import Planner
from tests.robot.parts import CLOSE, exported, observation

QUICK: list[dict[str, Any]] = [
    {"method": "pcm", "rounds": 2},
    {"method": "picard", "rounds": 3},
    {"method": "sequential"},
    {"method": "picard", "tolerance": 1e-3},
]
SLOW: list[dict[str, Any]] = [
    {"method": "pcm", "rounds": 1},
    {"method": "pcm", "tolerance": 1e-3},
    {"method": "adaptive", "tolerance": 1e-3},
    {"method": "adaptive", "tolerance": 1e-3, "head_rounds": 3},
    {"method": "coarse", "tolerance": 1e-3, "steps": 6},
    {"method": "picard", "settle": 0.05, "steps": 6},
    {"method": "picard", "window": 3, "rounds": 5, "steps": 6},
]
RELEASED = [("pusht_mlp", QUICK[0]), ("pusht", QUICK[0])]  # which take most of a minute
CASES = [
    *(pytest.param("mlp_window", one, id=f"golden-{_i}") for _i, one in enumerate(QUICK)),
    pytest.param("unet1d", {"method": "picard", "rounds": 2}, id="golden-stochastic"),
    *(pytest.param("mlp_window", one, marks=pytest.mark.slow) for one in SLOW),
    *(pytest.param(name, one, marks=pytest.mark.slow) for name, one in RELEASED),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_plans_are_the_policys(name: str, settings: dict[str, Any]) -> None:
    """Plain, with known actions, with a past one, and from the last plan; in three seeds."""
    policy, robot, _ = exported(name, **settings)
    planner, scale = Planner(policy, policy.solver(settings)), policy.action_normalizer.scale
    memories: list[Any] = [None, None]
    kinds = [(0, 0, "off"), (2, 0, "off"), (3, 1, "off"), (0, 0, "chunk"), (0, 0, "trajectory")]
    for seed in range(3):
        for tick, (count, past, warm) in enumerate([*kinds, (2, 0, "auto"), (0, 0, "trajectory")]):
            obs = observation(policy, 10 * seed + tick)
            middle = policy.action_normalizer.unnormalize(0.1 * scale / scale).numpy()
            request = PlanRequest(
                id=tick,
                seed=seed,
                tick=tick,
                clock=0.0,
                obs=obs,
                prefix=np.repeat(middle[None], count, axis=0),
                past=past,
                executed=tick,
                warm_start=warm,
                couple_noise=tick == 6,
            )
            want, found = (
                one.plan(replace(request, memory=memory))
                for one, memory in zip((planner, robot), memories, strict=True)
            )
            off = np.abs((found.actions - want.actions) * scale.numpy()).max()
            assert off < CLOSE.get(name, 1e-5), (seed, tick)
            assert (found.fault, found.certified) == (want.fault, want.certified)
            assert found.rounds == want.rounds
            np.testing.assert_allclose(found.bound, want.bound, rtol=0.05, atol=1e-4)
            memories = [want.memory, found.memory]


def test_predict_is_the_policys() -> None:
    policy, robot, _ = exported("mlp_window", method="pcm", rounds=2)
    steps = policy.sampler(policy.default_solver().sampler).noise_steps
    noise = episode_noise([5], [3], policy.config.chunk_shape, steps)
    solver = policy.solver({"method": "pcm", "rounds": 2})
    obs = observation(policy, 0)
    want = policy.predict(obs, solver=solver, noise=noise)
    drawn = draw([5], [3], robot.package.chunk, steps)
    np.testing.assert_array_equal(drawn.initial, noise.initial.numpy())
    found = robot.predict(obs, noise=drawn)
    scale = policy.action_normalizer.scale.numpy()
    assert np.abs((found.chunk - want.chunk) * scale).max() < 1e-5
    assert found.action.shape == want.action.shape
    assert found.solve.ended == want.solve.ended.name.lower()
    assert (found.solve.rounds, found.solve.nfe) == (want.solve.rounds, want.solve.nfe)
    assert found.solve.bound.tolist() == want.solve.bound.tolist()


def test_seed_and_count_name_the_noise() -> None:
    policy, robot, _ = exported("mlp_window", method="pcm", rounds=2)
    obs = observation(policy, 0)
    robot.reset(seed=7)
    first, second = robot.predict(obs).chunk, robot.predict(obs).chunk
    named = draw([7], [1], robot.package.chunk)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, robot.predict(obs, noise=Draws(named.initial)).chunk)
    robot.reset(seed=7)
    np.testing.assert_array_equal(first, robot.predict(obs).chunk)


def test_limits_are_the_folders() -> None:
    from pcm_policy.control import ControlSettings

    policy, free, _ = exported("mlp_window", method="pcm", rounds=2)
    obs, noise = observation(policy, 0), draw([0], [0], free.package.chunk)
    action = free.predict(obs, noise=noise).action
    middle = float(np.median(action))
    limits = ControlSettings(low=middle - 1e-3, high=middle + 1e-3)
    _, robot, _ = exported("mlp_window", method="pcm", rounds=2, control=limits)
    found = robot.predict(obs, noise=noise).action
    assert found.min() >= middle - 1.1e-3
    assert found.max() <= middle + 1.1e-3
    assert robot.controller().settings == limits
