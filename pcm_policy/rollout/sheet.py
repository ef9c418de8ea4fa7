"""The file of an evaluation, written while it goes on: what has finished is never lost."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcm_policy.files import refuse_existing, to_json, write_text
from pcm_policy.measure.evaluations import evaluation
from pcm_policy.rollout.entrants import Entrant
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.outcomes import EvalResult, outcomes

EVERY_S = 5.0


class Sheet:
    """One evaluation's file.

    Its key ``incomplete`` says what is missing while something is, and is gone at the end.

    Args:
        path: of the file.
        policy: as the command names it.
        task: its name.
        entrant: who is evaluated.
        total: episodes that are asked for.
        overwrite: whether a file that is there may be replaced.
        every_s: how often it is written while episodes run, at most.

    Raises:
        PcmError: the file is there already.
    """

    def __init__(
        self,
        path: Path,
        policy: str,
        task: str,
        entrant: Entrant,
        total: int,
        overwrite: bool = False,
        every_s: float = EVERY_S,
    ) -> None:
        refuse_existing(path, overwrite)
        self.path, self.total, self.every_s = path, total, every_s
        self._policy, self._task, self._entrant = policy, task, entrant
        self._runs: list[Run] = []
        self._written = -every_s

    def finished(self, run: Run) -> None:
        """Take in an episode that is over."""
        self._runs.append(run)
        if time.monotonic() - self._written >= self.every_s:
            done = sorted(self._runs, key=lambda each: each.index)
            self.write(done, None, f"{len(done)} of {self.total} episodes had finished")
            self._written = time.monotonic()

    def write(
        self,
        runs: Sequence[Run],
        latency_ms: Mapping[str, float] | None,
        incomplete: str | None = None,
    ) -> dict[str, Any]:
        """Write the file.

        Args:
            runs: the episodes so far.
            latency_ms: of single predictions; None where they were not timed.
            incomplete: what is missing; None when nothing is.

        Returns:
            What the file holds.
        """
        entrant = self._entrant
        report = evaluation(
            self._policy,
            self._task,
            entrant.solver_used(),
            EvalResult(outcomes(runs)).to_json(),
            {**entrant.found(runs), "latency_ms": latency_ms, **entrant.about()},
            incomplete,
        )
        write_text(self.path, to_json(report))
        return report
