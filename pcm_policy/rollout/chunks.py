"""Plain evaluation: predict a chunk, execute all of it, predict again; the simulator waits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.errors import PcmError
from pcm_policy.rollout.episodes import Actions, Run, Seated, in_rows

Predict = Callable[[Any, NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]
"""`predict(observations, seeds, ticks) -> actions`.

Observations (B, To, Do), or a dict of such arrays, oldest frame first; the environment seeds (B,)
and the control steps already executed (B,), which together name the noise of a row; actions
(B, Ta, Da), all of which are executed. B never changes; rows that no episode needs repeat another.
It may raise `RowFaults`: those rows' episodes end, the others are predicted again.
"""

Work = Callable[[], Sequence[tuple[float, float | None]]]


class RowFaults(PcmError):
    """Some rows cannot be predicted; the others can.

    Args:
        faults: row to reason.
    """

    def __init__(self, faults: Mapping[int, str]) -> None:
        super().__init__("; ".join(sorted(set(faults.values()))))
        self.faults = dict(faults)


class ChunkAgent:
    """Executes the chunks of a policy.

    If the rows of ``predict`` do not influence each other, episodes are bitwise the same for every
    number of environments, in one process or many: episode i is in row ``i % solve_batch`` of
    predictions of exactly ``solve_batch`` rows.

    Args:
        predict: the policy.
        obs_steps: frames that it sees, ``To``.
        solve_batch: rows of every prediction.
        work: rounds and network evaluations of every row of the last prediction; None where
            nobody counts them.

    Raises:
        PcmError: a number below 1.
    """

    def __init__(
        self, predict: Predict, obs_steps: int, solve_batch: int, work: Work | None = None
    ) -> None:
        if min(obs_steps, solve_batch) < 1:
            raise PcmError("n_obs_steps and solve_batch are at least 1")
        self.predict, self.solve_batch, self.work = predict, solve_batch, work
        self.obs_steps: int | None = obs_steps

    def begin(self, run: Run, observation: Any) -> None:
        """Remember nothing: observations come with their history."""

    def act(self, seated: Seated) -> Sequence[Actions | None]:
        """Return the next chunks; ends episodes that have none."""
        chunks: list[Actions | None] = [None] * len(seated)
        for seats in in_rows([run.index for run, _ in seated], self.solve_batch):
            self._call(seated, seats, chunks)
        return chunks

    def _call(self, seated: Seated, seats: dict[int, int], chunks: list[Actions | None]) -> None:
        while seats:
            first = next(iter(seats.values()))
            filled = [seated[seats.get(row, first)] for row in range(self.solve_batch)]
            seeds = np.array([run.seed for run, _ in filled], np.int64)
            ticks = np.array([run.steps for run, _ in filled], np.int64)
            try:
                found = self.predict(side_by_side([seen for _, seen in filled]), seeds, ticks)
            except RowFaults as error:
                ended = [(seats.pop(row), why) for row, why in error.faults.items() if row in seats]
                if not ended:
                    raise
                for place, why in ended:
                    seated[place][0].end(why)
                continue
            actions = self._checked(found)
            work = self.work() if self.work is not None else None
            for row, place in seats.items():
                if work is not None:
                    seated[place][0].solves.append(work[row])
                if np.isfinite(actions[row]).all():
                    chunks[place] = actions[row]
                else:
                    seated[place][0].end(
                        "predict returned an action that is not finite; it was not executed"
                    )
            return

    def _checked(self, values: Any) -> Actions:
        actions: Actions = np.asarray(values, np.float32)
        if actions.ndim != 3 or len(actions) != self.solve_batch or not actions.size:
            raise PcmError(
                f"predict must return ({self.solve_batch}, Ta, Da) actions, not {actions.shape}"
            )
        return actions


def side_by_side(observations: Sequence[Any]) -> Any:
    """Stack observations along a new first axis, entry by entry for dictionaries."""
    if isinstance(observations[0], dict):
        return {name: np.stack([seen[name] for seen in observations]) for name in observations[0]}
    return np.stack(observations)
