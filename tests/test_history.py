"""The newest frames, and the rest of a chunk, against the obvious lists."""

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given
from hypothesis import strategies as st

from pcm_policy.envs.vector import Frames
from pcm_policy.history import History, RecedingHorizon
from tests.rollout.odd_worlds import Odd


@given(st.integers(1, 6), st.integers(1, 12), st.booleans(), st.integers(0, 1))
def test_frames_are_the_newest_and_the_first_stands_for_those_before(
    steps: int, count: int, named: bool, axis: int
) -> None:
    history = History(steps)
    frames = [np.arange(3) + 10 * i for i in range(count)]
    for frame in frames:
        history.add({"a": frame, "b": frame[:1]} if named else frame)
    padded = [frames[0]] * steps + frames[1:]
    wanted = np.stack(padded[-steps:], axis)
    found = history.stacked(axis)
    np.testing.assert_array_equal(found["a"] if named else found, wanted)
    history.clear()
    assert not history


def test_a_frame_that_is_filled_again_is_not_forgotten() -> None:
    history, buffer = History(2), np.zeros(1)
    history.add(buffer)
    buffer[0] = 1
    history.add(buffer)
    assert history.stacked().ravel().tolist() == [0, 1]


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 15))
def test_a_chunk_is_executed_whole_before_the_next(steps: int, chunk: int, ticks: int) -> None:
    seen, horizon = [], RecedingHorizon(steps)

    def plan(history: History) -> Any:
        seen.append(history.stacked()[-1].item())
        return np.arange(chunk)[:, None] + 100 * len(seen)

    sent = [horizon.act(np.array([float(t)]), plan).item() for t in range(ticks)]
    assert seen == list(range(0, ticks, chunk))
    assert sent == [100 * (t // chunk + 1) + t % chunk for t in range(ticks)]
    horizon.reset()
    assert horizon.act(np.array([7.0]), plan).item() == 100 * len(seen)


def test_the_wrapper_is_gymnasiums() -> None:
    """The history of evaluations gives what gymnasium's stack of frames does."""
    for steps in (2, 5):
        ours, theirs = Frames(Odd("well"), steps), FrameStackObservation(Odd("well"), steps)
        assert isinstance(ours.observation_space, spaces.Box)
        assert ours.observation_space == theirs.observation_space
        for seed in (3, 4):
            pair = [env.reset(seed=seed)[0] for env in (ours, theirs)]
            np.testing.assert_array_equal(*pair)
            for move in (1.0, -2.0, 0.5):
                stepped = [env.step(np.array([move]))[0] for env in (ours, theirs)]
                np.testing.assert_array_equal(*stepped)
