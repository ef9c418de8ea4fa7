"""The closed loop: plan for many episodes at once, execute, plan again; and exact repeats."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tqdm import tqdm

from pcm_policy.envs.vector import Env
from pcm_policy.errors import PcmError

Actions = NDArray[np.float32]
Observation = NDArray[Any] | dict[str, NDArray[Any]]
Predict = Callable[[Any, NDArray[np.int64], NDArray[np.int64]], NDArray[Any]]
"""`predict(observations, seeds, ticks) -> actions`.

Observations (B, To, Do), or a dict of such arrays, oldest frame first; the environment seeds (B,)
and the control steps already executed (B,), which together name the noise of a row; actions
(B, Ta, Da), all of which are executed. B never changes; rows that no episode needs repeat another.
"""


class Interrupted(PcmError):
    """An environment failed; the episodes that had finished are in ``runs``."""

    def __init__(self, message: str, runs: "Sequence[Run]") -> None:
        super().__init__(message)
        self.runs = tuple(runs)


@dataclass
class Run:
    """One episode as far as it has gone; `score` is the best reward."""

    seed: int
    score: float = -np.inf
    success: bool = False
    steps: int = 0
    chunks: list[Actions] = field(default_factory=list)

    @property
    def actions(self) -> Actions:
        """Executed actions, (steps, Da)."""
        return np.concatenate(self.chunks)


def run_episodes(
    predict: Predict,
    envs: VectorEnv[Any, Any, Any],
    episodes: int,
    seed: int,
    solve_batch: int,
    bar: "tqdm[Any]",
) -> list[Run]:
    """Run episodes of seeds `seed`, `seed + 1`, ...; environment s takes every `num_envs`-th.

    Args:
        predict: The policy; episode i is in row `i % solve_batch` of its calls.
        envs: Environments of `ActionChunks`; as many as episodes or fewer.
        episodes: Number of episodes.
        seed: Of the first one.
        solve_batch: Rows of every call.
        bar: Counts the finished episodes.

    Returns:
        The episodes in the order of their seeds.

    Raises:
        Interrupted: an environment raised, or its process died.
        PcmError: `predict` returned a wrong shape or a value that is not finite.
    """
    runs = [Run(seed + i) for i in range(episodes)]
    finished: list[int] = []
    scores: list[float] = []
    current = np.arange(envs.num_envs) - envs.num_envs  # episode of each environment
    over = np.ones(envs.num_envs, np.bool_)
    while True:
        if over.any():
            current[over] += envs.num_envs  # idle once past the last episode
            seeds: Any = (seed + current).tolist()
            with _watched(envs, runs, finished, current):
                observation, _ = envs.reset(seed=seeds, options={"reset_mask": over})
        live = np.flatnonzero(current < episodes)
        if not live.size:
            return runs
        chunks = _plan(predict, observation, runs, current, live, solve_batch, envs)
        with _watched(envs, runs, finished, current):
            observation, rewards, terminated, truncated, info = envs.step(chunks)
        for slot in live:
            run, steps = runs[current[slot]], int(info["steps"][slot])
            run.chunks.append(chunks[slot, :steps])
            run.score = max(run.score, float(rewards[slot]))
            run.success |= bool(info["is_success"][slot])
            run.steps += steps
        over = terminated | truncated
        if over.any():
            finished.extend(current[over].tolist())
            scores.extend(runs[i].score for i in current[over])
            bar.update(int(over.sum()))
            bar.set_postfix(score=f"{np.mean(scores):.3f}")


@contextmanager
def _watched(
    envs: VectorEnv[Any, Any, Any],
    runs: list[Run],
    finished: list[int],
    current: NDArray[np.int64],
) -> Iterator[None]:
    """Turn what an environment raises, and the death of its process, into `Interrupted`."""
    try:
        yield
    except PcmError:
        raise
    except Exception as error:
        slot, what = _culprit(envs, error)
        where = "an environment"
        if slot is not None:
            where = f"environment {slot}"
            if current[slot] < len(runs):
                where += f", episode of seed {runs[current[slot]].seed},"
        close = {"terminate": True} if hasattr(envs, "processes") else {}
        envs.close(**close)  # its other processes would wait for ever
        done = [runs[i] for i in sorted(finished)]
        raise Interrupted(
            f"{where} {what}; {len(done)} of {len(runs)} episodes had finished", done
        ) from error


def _culprit(envs: VectorEnv[Any, Any, Any], error: Exception) -> tuple[int | None, str]:
    """Say which environment failed, if that can be known, and how."""
    for slot, process in enumerate(getattr(envs, "processes", ())):
        process.join(0.2 if isinstance(error, EOFError | OSError) else 0)
        if process.exitcode:
            code = process.exitcode
            return slot, f"died ({f'signal {-code}' if code < 0 else f'exit code {code}'})"
    pipes = getattr(envs, "parent_pipes", ())
    slots = [slot for slot, pipe in enumerate(pipes) if pipe is None]
    text = " ".join(str(error).split())
    return (slots[0] if slots else None), f"raised {type(error).__name__}: {text}"


def _plan(
    predict: Predict,
    observation: Any,
    runs: list[Run],
    current: NDArray[np.int64],
    live: NDArray[np.int64],
    solve_batch: int,
    envs: VectorEnv[Any, Any, Any],
) -> Actions:
    """Predict the chunks of all live environments, (num_envs, Ta, Da), NaN for the idle ones."""
    plans: dict[int, Actions] = {}
    for seats in _calls(live, current, solve_batch):
        first = next(iter(seats.values()))
        slots = np.array([seats.get(row, first) for row in range(solve_batch)])
        seeds = np.array([runs[i].seed for i in current[slots]], np.int64)
        ticks = np.array([runs[i].steps for i in current[slots]], np.int64)
        actions = predict(_take(observation, slots), seeds, ticks)
        actions = _checked(actions, solve_batch, envs.single_action_space.shape)
        plans.update((slot, actions[row]) for row, slot in seats.items())
    idle = np.full_like(plans[int(live[0])], np.nan)
    return np.stack([plans.get(slot, idle) for slot in range(envs.num_envs)])


def _calls(
    live: NDArray[np.int64], current: NDArray[np.int64], solve_batch: int
) -> list[dict[int, int]]:
    """Seat each live environment in its episode's row: {row: environment} of each call."""
    calls: list[dict[int, int]] = []
    for slot in live.tolist():
        row = int(current[slot]) % solve_batch
        seats = next((seats for seats in calls if row not in seats), None)
        if seats is None:
            calls.append(seats := {})
        seats[row] = slot
    return calls


def _take(observation: Any, rows: NDArray[np.int64]) -> Any:
    if isinstance(observation, dict):
        return {key: value[rows] for key, value in observation.items()}
    return observation[rows]


def _checked(values: Any, batch: int, shape: tuple[int, ...] | None) -> Actions:
    actions: Actions = np.asarray(values, np.float32)
    if actions.ndim < 2 or actions.shape[2:] != shape or len(actions) != batch or not actions.size:
        raise PcmError(f"predict must return ({batch}, Ta, *{shape}), not {actions.shape}")
    if not np.isfinite(actions).all():
        raise PcmError("predict returned an action that is not finite; it was not executed")
    return actions


def repeat(run: Run, env: Env) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Repeat an episode, yielding observation and info before each action and after the last.

    Raises:
        PcmError: The environment did not give the same score again.
    """
    observation, info = env.reset(seed=run.seed)
    yield observation, info
    score = -np.inf
    for action in run.actions:
        observation, reward, _, _, info = env.step(action)
        score = max(score, float(reward))
        yield observation, info
    check_repeat(run, score, len(run.actions))


def check_repeat(run: Run, score: float, steps: int) -> None:
    """Compare an episode with what its repeat gave.

    Raises:
        PcmError: The environment did not give the same again.
    """
    if (score, steps) != (run.score, run.steps):
        raise PcmError(f"the environment does not repeat: {score}, not {run.score}, at {run.seed}")
