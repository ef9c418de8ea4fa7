"""How episodes went, and what that says: scores, success rates and their intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pcm_policy.envs.record import Trajectory
from pcm_policy.errors import PcmError
from pcm_policy.measure.statistics import bootstrap_mean_interval, wilson_interval
from pcm_policy.rollout.episodes import Run


@dataclass(frozen=True)
class EpisodeOutcome:
    """How one episode went.

    Attributes:
        seed: Environment seed.
        score: Best reward; None if it was ended before the first.
        success: Whether the environment reported success; None if it never says.
        steps: Executed actions.
        fault: Why the episode was ended before its time, or None.
    """

    seed: int
    score: float | None
    success: bool | None
    steps: int
    fault: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data; a fault only if there is one."""
        found = asdict(self)
        if self.fault is None:
            del found["fault"]
        return found


@dataclass(frozen=True)
class EvalResult:
    """Outcomes in the order of their seeds, and their statistics.

    Attributes:
        episodes: One outcome an episode.
        trajectories: One an episode if they were asked for, less those that a fault ended.
    """

    episodes: tuple[EpisodeOutcome, ...]
    trajectories: tuple[Trajectory, ...] = ()

    @property
    def scores(self) -> list[float]:
        """The score of every episode.

        Raises:
            PcmError: an episode has none.
        """
        lost = [e for e in self.episodes if e.score is None]
        if lost:
            raise PcmError(f"episode of seed {lost[0].seed} has no score: {lost[0].fault}")
        return self._scored()

    @property
    def score(self) -> float | None:
        """Mean score of the episodes that have one."""
        found = self._scored()
        return float(np.mean(found)) if found else None

    @property
    def score_ci95(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean score."""
        found = self._scored()
        return bootstrap_mean_interval(found) if found else None

    @property
    def success(self) -> float | None:
        """Success rate of all episodes; None if the environment reports no success."""
        successes = self._successes()
        return None if successes is None else successes / len(self.episodes)

    @property
    def success_ci95(self) -> tuple[float, float] | None:
        """Wilson interval of the success rate."""
        successes = self._successes()
        return None if successes is None else wilson_interval(successes, len(self.episodes))

    @property
    def faults(self) -> list[EpisodeOutcome]:
        """The episodes that were ended before their time."""
        return [episode for episode in self.episodes if episode.fault is not None]

    def to_json(self) -> dict[str, Any]:
        """Give everything but the trajectories as plain Python values."""
        score, success = self.score_ci95, self.success_ci95
        ended = len(self.faults)
        return {
            "score": score and {"mean": self.score, "ci95": list(score)},
            "success": success and {"rate": self.success, "ci95": list(success)},
            **({"ended_early": ended} if ended else {}),
            "episodes": [episode.to_json() for episode in self.episodes],
        }

    def _scored(self) -> list[float]:
        return [episode.score for episode in self.episodes if episode.score is not None]

    def _successes(self) -> int | None:
        """Count the successes; an episode that ended before it could report one is none."""
        if all(episode.success is None for episode in self.episodes):
            return None
        return sum(bool(episode.success) for episode in self.episodes)


class EvaluationCut(PcmError):
    """The episodes did not all run.

    Args:
        message: why, in one line.
        result: the episodes that had finished, if any.
        by_user: whether by Ctrl-C.
    """

    def __init__(self, message: str, result: EvalResult, by_user: bool = False) -> None:
        super().__init__(message)
        self.result, self.by_user = result, by_user


def outcomes(runs: Sequence[Run]) -> tuple[EpisodeOutcome, ...]:
    """Return how runs went."""
    return tuple(
        EpisodeOutcome(
            run.seed,
            run.score if np.isfinite(run.score) else None,
            run.success,
            run.steps,
            run.fault,
        )
        for run in runs
    )
