"""Push-T: observations, starts and physics against Diffusion Policy's own records."""

import sys
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import zarr
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

import pcm_policy.envs
from pcm_policy.envs.pusht import KEYPOINTS, PushTImage, PushTKeypoints, keypoints
from pcm_policy.errors import PcmError

Recorded = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def recorded(human_data: Path) -> Recorded:
    data = zarr.open_group(human_data, mode="r")["data"]
    return {key: np.asarray(data[key][:], np.float64) for key in ("state", "keypoint", "action")}


@pytest.fixture(scope="module")
def ends(human_data: Path) -> NDArray[np.int64]:
    return np.asarray(zarr.open_group(human_data, mode="r")["meta"]["episode_ends"][:])


@pytest.fixture
def env() -> PushTKeypoints:
    return PushTKeypoints()


@pytest.mark.parametrize("name", ["PushTKeypoints", "PushTImage"])
def test_passes_gymnasiums_checks(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized")  # pixels here
        check_env(gym.make(f"pcm_policy/{name}-v0", disable_env_checker=True).unwrapped)
    assert gym.spec(f"pcm_policy/{name}-v0").max_episode_steps == 300


def test_local_keypoints_have_the_recorded_shape(recorded: Recorded) -> None:
    def distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.linalg.norm(points[..., :, None, :] - points[..., None, :, :], axis=-1)

    error = np.abs(distances(recorded["keypoint"]) - distances(KEYPOINTS))
    assert error.max() < 1e-3


def test_keypoints_of_recorded_poses(recorded: Recorded) -> None:
    error = np.abs(keypoints(recorded["state"][:, 2:]) - recorded["keypoint"]).max(axis=(1, 2))
    # The rest was recorded a little of contact resolution after the state beside it.
    assert np.mean(error < 1e-3) > 0.77
    assert np.median(error) < 3e-5
    assert np.quantile(error, 0.99) < 0.04
    assert error.max() < 2.06


def test_observation_is_keypoints_then_agent(env: PushTKeypoints, recorded: Recorded) -> None:
    at_rest = keypoints(recorded["state"][:, 2:])
    rows = np.flatnonzero(np.abs(at_rest - recorded["keypoint"]).max(axis=(1, 2)) < 1e-3)[::500]
    assert len(rows) > 30
    for row in rows:
        observation, _ = env.reset(options={"state": recorded["state"][row]})
        expected = [*recorded["keypoint"][row].ravel(), *recorded["state"][row, :2]]
        np.testing.assert_allclose(observation, expected, atol=1.1e-3)


def test_a_recorded_state_is_a_valid_start(env: PushTKeypoints, recorded: Recorded) -> None:
    for state in recorded["state"][::2000]:
        _, info = env.reset(seed=1, options={"state": state})
        np.testing.assert_allclose(info["state"], state, rtol=0, atol=1e-12)


def test_recorded_actions_replay_the_recorded_episodes(
    env: PushTKeypoints, recorded: Recorded, ends: NDArray[np.int64]
) -> None:
    for episode in (0, 1, 2, 10, 43, 50, 89, 107, 128, 205):  # some start in contact
        rows = slice(ends[episode - 1] if episode else 0, ends[episode])
        states, actions = recorded["state"][rows], recorded["action"][rows]
        _, info = env.reset(options={"state": states[0]})
        played = [info["state"]]
        for action in actions[:-1]:
            played.append(env.step(action)[4]["state"])
        error = np.abs(np.array(played) - states)
        error[:, 4] = np.minimum(error[:, 4], 2 * np.pi - error[:, 4])
        assert error.max() < (0.2 if episode == 107 else 2e-4), episode


def test_coverage_is_gym_pushts(env: PushTKeypoints, recorded: Recorded) -> None:
    from gym_pusht.envs import PushTEnv

    for state in recorded["state"][::500]:
        _, info = env.reset(options={"state": state})
        theirs = PushTEnv._get_coverage(env._simulator)
        assert info["coverage"] == pytest.approx(theirs, abs=1e-9)


def test_the_image_is_the_recorded_frame(human_data: Path, recorded: Recorded) -> None:
    frames = zarr.open_group(human_data, mode="r")["data"]["img"]
    env = PushTImage()
    for row in (0, 77, 500):
        observation, _ = env.reset(options={"state": recorded["state"][row]})
        assert np.abs(observation["image"] - frames[row]).mean() < 1.0


def test_seeds_give_diffusion_policys_starts(env: PushTKeypoints) -> None:
    _, info = env.reset(seed=100_000)
    random = np.random.RandomState(100_000)
    agent = random.randint(50, 450, 1)[0], random.randint(50, 450, 1)[0]
    np.testing.assert_allclose(info["state"][:2], agent)
    env.step(np.array([0, 0], np.float32))
    _, again = env.reset(seed=100_000)
    np.testing.assert_array_equal(info["state"], again["state"])
    assert not np.array_equal(env.reset(seed=1)[1]["state"], info["state"])
    assert not np.array_equal(env.reset()[1]["state"], env.reset()[1]["state"])


def test_seeds_of_more_than_32_bits_name_starts_too(env: PushTKeypoints) -> None:
    large, larger, small = (env.reset(seed=seed)[1]["state"] for seed in (2**32, 2**40, 0))
    assert not np.array_equal(large, larger)
    assert not np.array_equal(large, small)
    np.testing.assert_array_equal(env.reset(seed=2**32)[1]["state"], large)


def test_success_ends_the_episode(env: PushTKeypoints) -> None:
    _, info = env.reset(options={"state": [50, 50, 256, 256, np.pi / 4]})
    assert info["coverage"] == pytest.approx(1)
    _, reward, terminated, truncated, info = env.step(np.array([50, 50], np.float32))
    assert (reward, terminated, truncated, info["is_success"]) == (1.0, True, False, True)


def test_reward_is_capped_coverage(env: PushTKeypoints) -> None:
    env.reset(options={"state": [50, 50, 256, 276, np.pi / 4]})
    _, reward, terminated, _, info = env.step(np.array([50, 50], np.float32))
    assert 0.1 < info["coverage"] < 0.95
    assert reward == pytest.approx(info["coverage"] / 0.95)
    assert not terminated


def test_rendering() -> None:
    env = PushTKeypoints(render_mode="rgb_array")
    _, _ = env.reset(options={"state": [100, 100, 256, 256, np.pi / 4]})
    frame = env.render()
    assert frame is not None
    assert frame.shape == (512, 512, 3)
    np.testing.assert_allclose(frame[100, 100], [50, 126, 200], atol=60)  # the agent, royal blue
    assert PushTKeypoints().render() is None


@pytest.mark.parametrize("state", [[1, 2, 3], [0, 0, 0, 0, np.nan], np.zeros((2, 5))])
def test_bad_states_are_refused(env: PushTKeypoints, state: object) -> None:
    with pytest.raises(PcmError, match="five finite numbers"):
        env.reset(options={"state": state})


def test_unknown_render_mode_is_refused() -> None:
    with pytest.raises(PcmError, match="render_mode"):
        PushTKeypoints(render_mode="human")


def test_missing_simulator_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht.envs", None)
    with pytest.raises(PcmError, match=r"pip install 'pcm_policy\[pusht\]'"):
        PushTKeypoints()


def test_registration_module_needs_no_simulator() -> None:
    assert "gym_pusht" not in vars(pcm_policy.envs)
