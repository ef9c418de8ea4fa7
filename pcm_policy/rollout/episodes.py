"""The closed loop of every evaluation: episodes in seats, an agent that acts in all of them.

Episode i has seed ``seed + i`` and runs in environment ``i % num_envs``. Who acts is an
:class:`Agent`: one that executes a policy's chunks while the simulator waits
(:mod:`.chunks`), or a controller for every episode in a world that keeps moving
(:mod:`.controlled`). An episode is a function of its index and seed alone, whoever runs beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pcm_policy.envs.record import either
from pcm_policy.errors import PcmError
from pcm_policy.rollout.seats import SeatFailure, Seats, Stepped

Actions = NDArray[np.float32]


@dataclass
class Run:
    """One episode as far as it has gone.

    Attributes:
        index: number of the episode, from 0; the row of its solves follows from it.
        seed: of the environment; names the noise as well.
        score: best reward; minus infinity before the first.
        success: whether the environment reported success; None if it never says.
        steps: executed actions.
        chunks: executed actions, ``(n, Da)`` each.
        solves: rounds and network evaluations of every plan, as if solved alone; evaluations are
            None where they are not known.
        fault: why the episode was ended before its time, or None.
    """

    index: int
    seed: int
    score: float = -np.inf
    success: bool | None = None
    steps: int = 0
    chunks: list[Actions] = field(default_factory=list)
    solves: list[tuple[float, float | None]] = field(default_factory=list)
    fault: str | None = None

    @property
    def actions(self) -> Actions:
        """Executed actions, ``(steps, Da)``."""
        return np.concatenate(self.chunks) if self.chunks else np.zeros((0, 0), np.float32)

    def end(self, why: str) -> None:
        """End the episode before its time: it is counted as it stands, with the reason."""
        self.fault = f"step {self.steps}: {why}"

    def take(self, chunk: Actions, step: Stepped, slot: int) -> None:
        """Take in what executing a chunk gave."""
        count = int(step.steps[slot])
        if count == 0:
            return
        self.chunks.append(chunk[:count].copy())
        self.score = max(self.score, float(step.rewards[slot]))
        self.success = either(self.success, step.success_of(slot))
        self.steps += count
        if not step.finite[slot]:
            self.end("the environment gave a reward that is not a finite number")


Seated = Sequence[tuple[Run, Any]]
"""Episodes that go on, each with the observation of its environment."""


class Agent(Protocol):
    """Acts in many episodes at once.

    Attributes:
        obs_steps: frames of an observation, oldest first; None for the newest alone, unstacked.
    """

    obs_steps: int | None

    def begin(self, run: Run, observation: Any) -> None:
        """Begin an episode with its first observation."""

    def act(self, seated: Seated) -> Sequence[Actions | None]:
        """Return what every episode executes next, ``(n, Da)``, or None to stand still.

        It is called again with the same observation where nothing was executed. An episode that
        cannot go on is ended by :meth:`Run.end`.
        """
        ...


class Interrupted(PcmError):
    """The episodes did not all run; those that had finished are in ``runs``.

    Args:
        message: why, in one line.
        runs: finished episodes, in the order of their numbers.
        by_user: whether by Ctrl-C.
    """

    def __init__(self, message: str, runs: Sequence[Run], by_user: bool = False) -> None:
        super().__init__(message)
        self.runs, self.by_user = tuple(runs), by_user


def run_episodes(
    agent: Agent,
    seats: Seats,
    runs: list[Run],
    finished: Callable[[Run], None] = lambda _: None,
) -> list[Run]:
    """Run episodes that have not begun.

    Args:
        agent: who acts.
        seats: where; as many as episodes or fewer.
        runs: the episodes, at least one.
        finished: is told of every episode when it is over.

    Returns:
        The episodes, in their order.

    Raises:
        Interrupted: an environment or the agent failed, or Ctrl-C; it has what had finished.
    """
    loop = _Loop(agent, seats, runs, finished)
    try:
        while slots := loop.live():
            loop.step(slots)
    except SeatFailure as error:
        raise loop.cut(f"{loop.place(error.slot)} {error.what}") from error
    except KeyboardInterrupt as error:
        raise loop.cut("interrupted", by_user=True) from error
    except PcmError as error:
        raise loop.cut(str(error)) from error
    except Exception as error:
        text = " ".join(str(error).split())
        raise loop.cut(f"{type(error).__name__}: {text}") from error
    return loop.runs


class _Loop:
    """Which episode sits where, and what each environment showed last."""

    def __init__(
        self, agent: Agent, seats: Seats, runs: list[Run], finished: Callable[[Run], None]
    ) -> None:
        self.agent, self.seats, self.runs, self.finished = agent, seats, runs, finished
        self.done: list[Run] = []
        self._current = np.arange(seats.count) - seats.count  # episode of each environment
        self._over = np.ones(seats.count, np.bool_)
        self._observation: Any = None

    def live(self) -> list[int]:
        """Seat the next episodes; returns the environments that have one."""
        if self._over.any():
            self._current[self._over] += self.seats.count  # idle once past the last episode
            last = len(self.runs) - 1
            seeds = [self.runs[min(max(at, 0), last)].seed for at in self._current.tolist()]
            self._observation = self.seats.reset(seeds, self._over)
            for slot in np.flatnonzero(self._over & (self._current < len(self.runs))).tolist():
                self.agent.begin(self._run(slot), row(self._observation, slot))
            self._over = np.zeros(self.seats.count, np.bool_)
        return np.flatnonzero(self._current < len(self.runs)).tolist()

    def step(self, slots: Sequence[int]) -> None:
        """Let the agent act once in the episodes of some environments."""
        seated = [(self._run(slot), row(self._observation, slot)) for slot in slots]
        try:
            actions = self.agent.act(seated)
        except PcmError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())
            raise PcmError(f"the policy raised {type(error).__name__}: {text}") from error
        chunks = self._side_by_side(dict(zip(slots, actions, strict=True)))
        step = self.seats.step(chunks)
        self._observation = step.observation
        for slot in slots:
            run = self._run(slot)
            if run.fault is None:
                run.take(chunks[slot], step, slot)
            self._over[slot] = step.over[slot] or run.fault is not None
            if self._over[slot]:
                self.done.append(run)
                self.finished(run)

    def place(self, slot: int | None) -> str:
        """Name an environment and its episode."""
        if slot is None:
            return "an environment"
        if self._current[slot] >= len(self.runs):
            return f"environment {slot}"
        return f"environment {slot}, episode of seed {self._run(slot).seed},"

    def cut(self, why: str, by_user: bool = False) -> Interrupted:
        """Say why not all episodes ran, and how many did."""
        done = sorted(self.done, key=lambda run: run.index)
        text = f"{why}; {len(done)} of {len(self.runs)} episodes had finished"
        return Interrupted(text, done, by_user)

    def _run(self, slot: int) -> Run:
        return self.runs[int(self._current[slot])]

    def _side_by_side(self, actions: dict[int, Actions | None]) -> Actions:
        """Return ``(num_envs, longest, Da)``, filled up with NaN, which is no action."""
        given = [chunk for chunk in actions.values() if chunk is not None]
        longest = max((len(chunk) for chunk in given), default=1)
        shape = (self.seats.count, longest, *self.seats.action_shape)
        chunks: Actions = np.full(shape, np.nan, np.float32)
        for slot, chunk in actions.items():
            if chunk is None:
                continue
            if chunk.shape[1:] != self.seats.action_shape:
                raise PcmError(
                    f"predict must return actions of shape {self.seats.action_shape}, which the "
                    f"environment takes, not {chunk.shape[1:]}"
                )
            chunks[slot, : len(chunk)] = chunk
        return chunks


def row(observation: Any, index: int) -> Any:
    """Return one row of an observation: of an array, or of every entry of a dictionary."""
    if isinstance(observation, dict):
        return {name: values[index] for name, values in observation.items()}
    return observation[index]


def in_rows(indices: Sequence[int], batch: int) -> list[dict[int, int]]:
    """Give every episode its own row of a solve, ``index % batch``.

    Returns:
        For every solve that it takes, ``{row: place in indices}``.
    """
    calls: list[dict[int, int]] = []
    for place, index in enumerate(indices):
        seat = index % batch
        call = next((call for call in calls if seat not in call), None)
        if call is None:
            calls.append(call := {})
        call[seat] = place
    return calls
