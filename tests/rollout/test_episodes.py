"""What an episode takes in of a step, without any environment."""

import numpy as np
import pytest

from pcm_policy.envs.vector import UNKNOWN
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.outcomes import EpisodeOutcome, EvalResult
from pcm_policy.rollout.seats import Stepped


def stepped(reward: float, success: int, steps: int = 2, finite: bool = True) -> Stepped:
    return Stepped(
        observation=np.zeros((1, 1)),
        rewards=np.array([reward]),
        steps=np.array([steps]),
        success=np.array([success]),
        finite=np.array([finite]),
        over=np.array([False]),
    )


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([1, 0], True),
        ([0, 1], True),
        ([UNKNOWN, UNKNOWN], None),
        ([1, UNKNOWN], True),
        ([0], False),
    ],
)
def test_an_episode_that_succeeded_once_has_succeeded(
    codes: list[int], expected: bool | None
) -> None:
    run = Run(0, 0)
    for code in codes:
        run.take(np.ones((3, 1), np.float32), stepped(0.0, code), 0)
    assert run.success is expected


def test_the_best_reward_and_what_was_executed_count() -> None:
    run = Run(0, 0)
    for reward, steps in ((0.25, 2), (0.75, 3), (0.5, 1), (0.9, 0)):
        run.take(np.full((3, 1), reward, np.float32), stepped(reward, 0, steps), 0)
    assert run.score == 0.75
    assert run.steps == 6
    assert run.actions[:, 0].tolist() == [0.25] * 2 + [0.75] * 3 + [0.5]
    assert run.fault is None


def test_a_reward_that_is_not_finite_ends_the_episode() -> None:
    run = Run(0, 0)
    run.take(np.ones((3, 1), np.float32), stepped(0.5, 0, finite=False), 0)
    assert run.fault == "step 2: the environment gave a reward that is not a finite number"


def test_an_episode_that_was_ended_early_is_no_success_but_counts() -> None:
    lost = EpisodeOutcome(1, None, None, 0, "step 0: no plan")
    result = EvalResult((EpisodeOutcome(0, 0.5, True, 9), lost, EpisodeOutcome(2, 0.25, False, 9)))
    assert result.success == pytest.approx(1 / 3)
    assert result.score == 0.375
    assert result.faults == [lost]
    assert EvalResult((lost,)).score is None
