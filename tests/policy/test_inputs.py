"""What ``predict`` may be given: arrays of any layout that are right, and a line for all else."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy import ActionLimits, DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise

CONFIG = PolicyConfig(
    obs_dim=8,
    action_dim=2,
    horizon=8,
    action_steps=3,
    network_options={"width": 16, "depth": 1},
    obs_fields=("points", "state[0:2]"),
)
GEN = np.random.default_rng(0)
POINTS, STATE = GEN.normal(size=(4, 2, 3, 2)), GEN.normal(size=(4, 2, 5))
JOINED = np.concatenate([POINTS.reshape(4, 2, 6), STATE[..., :2]], axis=-1)


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    torch.manual_seed(0)
    return DiffusionPolicy(CONFIG)


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_entries_may_have_axes_of_their_own(
    policy: DiffusionPolicy, batched: bool, flat: bool
) -> None:
    points = POINTS.reshape(4, 2, 6) if flat else POINTS
    rows = slice(None) if batched else 1
    found = policy.observe({"points": points[rows], "state": STATE[rows], "more": "text"})
    expected = JOINED.astype(np.float32)[rows].reshape(-1, 2, 8)
    np.testing.assert_array_equal(found.numpy(), expected)


@given(st.sampled_from(["flip", "fortran", "slice", "read-only", "big-endian", "int", "half"]))
def test_any_layout_of_the_same_numbers_is_taken(kind: str) -> None:
    torch.manual_seed(0)
    policy, obs = DiffusionPolicy(CONFIG), np.round(JOINED).astype(np.float32)
    expected = policy.observe(obs).numpy()
    given_ = {
        "flip": obs[:, ::-1].copy()[:, ::-1],
        "fortran": np.asfortranarray(obs),
        "slice": np.repeat(obs, 2, axis=0)[::2],
        "big-endian": obs.astype(">f8"),
        "int": obs.astype(np.int16),
        "half": obs.astype(np.float16),
    }.get(kind, obs.copy())
    given_.flags.writeable = kind != "read-only"
    np.testing.assert_array_equal(policy.observe(given_).numpy(), expected)


NO_NUMBERS: list[Any] = [
    "text",
    [["a"] * 8] * 2,
    [[1.0], [1.0, 2.0]],
    None,
    [[None] * 8] * 2,
    np.full((2, 8), 1j),
    np.full((2, 8), "1"),
    np.zeros((2, 8), "datetime64[s]"),
    np.full((2, 8), 1e300),
    np.full((2, 8), np.nan),
    np.zeros((0, 2, 8)),
    np.zeros(16),
    [[10**400] * 8] * 2,
    {"points": "text", "state": STATE},
    {"points": POINTS, "state": [[1.0], [1.0, 2.0]]},
    {"points": POINTS, "state": STATE[0]},
    {"points": POINTS},
    {"points": POINTS[:, :1], "state": STATE[:, :1]},
    {},
]


@pytest.mark.parametrize("obs", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
def test_what_is_no_observation_is_a_line(policy: DiffusionPolicy, obs: Any) -> None:
    with pytest.raises(PcmError, match="observation") as caught:
        policy.predict(obs)
    assert str(caught.value).isprintable()


def test_noise_of_other_shapes(policy: DiffusionPolicy) -> None:
    obs, good = JOINED[:2], torch.zeros(2, 8, 2)
    policy.predict(obs, noise=Noise(good))
    for noise in (
        good,
        Noise(good[:1]),
        Noise(good[:, :4]),
        Noise(torch.zeros(2, 8, 3)),
        Noise(good / 0),
        Noise(good.long()),
        Noise(good.numpy()),  # type: ignore[arg-type]
    ):
        with pytest.raises(PcmError, match="noise"):
            policy.predict(obs, noise=noise)  # type: ignore[arg-type]
    noisy = replace(policy.config.sampler, eta=1.0)
    other = DiffusionPolicy(replace(CONFIG, sampler=noisy))
    for steps in (None, torch.zeros(3, 2, 8, 2), torch.zeros(16, 2, 8, 3)):
        with pytest.raises(PcmError, match=r"noise.steps"):
            other.predict(obs, noise=Noise(good, steps))


def test_guesses_prefixes_and_last_actions_of_other_shapes(policy: DiffusionPolicy) -> None:
    obs = JOINED[:2]
    for guess in (np.zeros((2, 8, 2)), torch.zeros(1, 8, 2), torch.zeros(2, 8), "guess"):
        with pytest.raises(PcmError, match="guess"):
            policy.predict(obs, guess=guess)  # type: ignore[arg-type]
    for prefix in (np.zeros((2, 3, 2)), policy.known_prefix(np.zeros((3, 1, 2)))):
        with pytest.raises(PcmError, match="prefix"):
            policy.predict(obs, prefix=prefix)  # type: ignore[arg-type]
    for actions in ("a", [[["a", "b"]]], np.full((1, 2, 2), np.nan), np.zeros((1, 9, 2))):
        with pytest.raises(PcmError, match="prefix"):
            policy.known_prefix(actions)  # type: ignore[arg-type]
    for limits in (None, ActionLimits(max_step=1.0)):
        policy.limits = limits
        for previous in (np.full((2, 2), np.nan), np.zeros((1, 2)), np.zeros(2), "a"):
            with pytest.raises(PcmError, match="previous"):
                policy.predict(obs, previous=previous)  # type: ignore[arg-type]
    policy.limits = None
