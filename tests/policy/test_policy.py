"""What goes into predict, and what may come out."""

import numpy as np
import pytest
import torch

from pcm_policy import ActionLimits, DiffusionPolicy, PcmError, PolicyConfig, Solver
from pcm_policy.sampling.noise import episode_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers import Picard, Rounds
from tests.builders import small_policy


@pytest.fixture
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    config = PolicyConfig(3, 2, network_options={"width": 32, "depth": 1})
    policy = DiffusionPolicy(config)
    policy.obs_normalizer.low.fill_(-1)
    policy.obs_normalizer.high.fill_(1)
    policy.action_normalizer.scale.fill_(0.01)
    return policy


def test_executed_actions_start_at_the_newest_observation(policy: DiffusionPolicy) -> None:
    found = policy.predict(np.zeros((5, 2, 3)))
    assert found.chunk.shape == (5, 16, 2)
    np.testing.assert_array_equal(found.action, found.chunk[:, 1:9])
    np.testing.assert_allclose(found.chunk, found.solve.sample.numpy() / 0.01, rtol=1e-6)


def test_noise_alone_decides(policy: DiffusionPolicy) -> None:
    noise = episode_noise([3], [8], (16, 2))
    first, second = (policy.predict(np.zeros((2, 3)), noise=noise).action for _ in range(2))
    np.testing.assert_array_equal(first, second)
    fresh = policy.predict(np.zeros((2, 3))).action
    assert np.abs(fresh - first).max() > 1
    again = DiffusionPolicy(policy.config, seed=1)
    again.load_state_dict(policy.state_dict())
    other = DiffusionPolicy(policy.config, seed=1)
    other.load_state_dict(policy.state_dict())
    np.testing.assert_array_equal(
        again.predict(np.zeros((2, 3))).action, other.predict(np.zeros((2, 3))).action
    )


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        (np.full((2, 3), np.nan), "not finite"),
        (np.full((2, 3), np.inf), "not finite"),
        (np.full((2, 3), 4.0), "out of range"),
        (np.zeros((3, 3)), "shape"),
        (np.zeros((1, 2, 4)), "shape"),
        (np.zeros((0, 2, 3)), "shape"),
    ],
)
def test_bad_observations_are_refused(policy: DiffusionPolicy, obs: np.ndarray, words: str) -> None:
    with pytest.raises(PcmError, match=words) as caught:
        policy.predict(obs)
    assert "\n" not in str(caught.value)


def test_range_message_names_the_place(policy: DiffusionPolicy) -> None:
    obs = np.zeros((2, 2, 3))
    obs[1, 0, 2] = -9
    with pytest.raises(PcmError, match=r"batch 1, step 0, dimension 2: -9 against -1 to 1"):
        policy.predict(obs)


def test_non_finite_actions_never_leave(policy: DiffusionPolicy) -> None:
    policy.network.out.bias.data[3] = float("nan")
    with pytest.raises(PcmError, match="non-finite action"):
        policy.predict(np.zeros((2, 3)))


def test_limits_hold(policy: DiffusionPolicy) -> None:
    free = policy.predict(np.zeros((2, 3)), noise=episode_noise([0], [0], (16, 2))).action
    low, high = np.array([-20.0, -30.0]), np.array([25.0, 30.0])
    policy.limits = ActionLimits(low, high, max_step=5.0)
    previous = np.zeros((1, 2), np.float32)
    limited = policy.predict(
        np.zeros((2, 3)), noise=episode_noise([0], [0], (16, 2)), previous=previous
    ).action
    assert np.abs(free).max() > 30
    assert (limited >= low).all()
    assert (limited <= high).all()
    path = np.concatenate([previous[:, None], limited], axis=1)
    assert np.abs(np.diff(path, axis=1)).max() <= 5 + 1e-5


def test_solver_defaults_come_from_the_policy(policy: DiffusionPolicy) -> None:
    assert policy.default_solver().method == "sequential"
    assert policy.solver({"method": None}).sampler == policy.config.sampler
    assert policy.solver({"method": "sequential", "sampler": "ddpm"}).sampler == SamplerConfig(
        "ddpm", 100
    )
    with pytest.raises(PcmError, match="no PCM head"):
        policy.solver({"method": "pcm", "rounds": 2})
    with pytest.raises(PcmError, match="trained with 100"):
        policy.predict(np.zeros((2, 3)), solver=policy.solver({"steps": 101}))


def test_a_measured_jacobian_follows_the_policy() -> None:
    made = small_policy()
    made.calibrate(torch.zeros(4, 2, 3), made.config.sampler)
    solver = made.solver({"method": "newton", "rounds": 3})
    made.double()
    found = made.solve(torch.zeros(2, 2, 3, dtype=torch.float64), solver)
    assert found.sample.dtype == torch.float64


def test_a_solver_without_a_sampler_is_the_policys() -> None:
    """``Solver(step, stop)``, as Python code writes it, takes the sampler from the policy."""
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    found = policy.predict(np.full((2, 20), 256.0), solver=Solver(Picard(), Rounds(2)))
    assert found.solve.rounds == 2
    assert found.solve.trajectory.shape[0] == policy.config.sampler.steps + 1


def test_noise_is_drawn_for_a_solver_or_its_sampler() -> None:
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    solver = policy.solver({"method": "picard", "rounds": 2, "sampler": "ddpm"})
    one, two = (
        policy.draw_noise(3, whose, torch.Generator().manual_seed(0))
        for whose in (solver, solver.sampler)
    )
    assert one.steps is not None
    assert two.steps is not None
    assert one.initial.equal(two.initial)
    assert one.steps.equal(two.steps)
