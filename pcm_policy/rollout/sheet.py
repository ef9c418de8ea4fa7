"""The file of an evaluation, written while it goes on: what has finished is never lost."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pcm_policy.files import to_json, write_text
from pcm_policy.measure.evaluations import evaluation
from pcm_policy.rollout.episodes import Run
from pcm_policy.rollout.outcomes import EvalResult
from pcm_policy.rollout.records import Record, work_of

EVERY_S = 5.0
Layout = Callable[[Sequence[Record], Mapping[str, float] | None, str | None], dict[str, Any]]
"""``layout(records, latency_ms, incomplete)``: what a file holds of some episodes.

Records in the order of their numbers; times of single predictions in ms, None where they were not
timed; and what is missing, None when nothing is.
"""


class Sheet:
    """One evaluation's file.

    Its key ``incomplete`` says what is missing while something is, and is gone at the end.

    Args:
        path: of the file; one that is there is replaced.
        total: episodes that it is to hold.
        record: makes the record of an episode that is over.
        layout: makes what the file holds.
        records: of episodes that are there already.
        every_s: how often it is written while episodes run, at most.
    """

    def __init__(
        self,
        path: Path,
        total: int,
        record: Callable[[Run], Record],
        layout: Layout,
        records: Sequence[Record] = (),
        every_s: float = EVERY_S,
    ) -> None:
        self.path, self.total, self.every_s = path, total, every_s
        self._record, self._layout = record, layout
        self._records = {record.index: record for record in records}
        self._written = -every_s

    def finished(self, run: Run) -> None:
        """Take in an episode that is over."""
        self._records[run.index] = self._record(run)
        if time.monotonic() - self._written >= self.every_s:
            self.write(None, f"{len(self._records)} of {self.total} episodes had finished")
            self._written = time.monotonic()

    @property
    def records(self) -> list[Record]:
        """The episodes so far, in the order of their numbers."""
        return [self._records[index] for index in sorted(self._records)]

    def write(
        self, latency_ms: Mapping[str, float] | None, incomplete: str | None = None
    ) -> dict[str, Any]:
        """Write the file.

        Args:
            latency_ms: of single predictions; None where they were not timed.
            incomplete: what is missing; None when nothing is.

        Returns:
            What the file holds.
        """
        found = self._layout(self.records, latency_ms, incomplete)
        write_text(self.path, to_json(found))
        return found


def report(
    header: Mapping[str, Any],
    records: Sequence[Record],
    latency_ms: Mapping[str, float] | None,
    incomplete: str | None = None,
) -> dict[str, Any]:
    """Return what ``eval.json`` holds.

    Args:
        header: ``policy``, ``task``, ``solver``, and ``about``, how it was made.
        records: at least one, in the order of their numbers.
        latency_ms: of single predictions; None where they were not timed.
        incomplete: what is missing; None when nothing is.
    """
    return evaluation(
        header["policy"],
        header["task"],
        header["solver"],
        EvalResult(tuple(record.outcome for record in records)).to_json(),
        {**work_of(records), "latency_ms": latency_ms, **header["about"]},
        incomplete,
    )
