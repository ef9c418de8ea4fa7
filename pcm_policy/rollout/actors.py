"""Who acts when demonstrations are generated: a scripted expert, or a policy.

An actor runs episodes by their seeds and puts each into the journal; an episode is a function of
its seed alone, whoever else runs beside it.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from typing import Any, Literal, Protocol

import gymnasium as gym
import numpy as np

import pcm_policy.envs  # noqa: F401 (registers the environments)
from pcm_policy.datasets.journal import Journal
from pcm_policy.envs.experts import make_expert
from pcm_policy.envs.record import Trajectory, demonstration, record
from pcm_policy.envs.workers import end_with_parent
from pcm_policy.errors import PcmError

Env = gym.Env[Any, Any]


@dataclass(frozen=True)
class World:
    """Where episodes happen.

    Attributes:
        task: its name.
        env_id: a gymnasium id.
        env_kwargs: for ``gymnasium.make``.
    """

    task: str
    env_id: str
    env_kwargs: Mapping[str, Any]

    def make(self) -> Env:
        """Make the environment; PcmError when its simulator is not installed."""
        env: Env = gym.make(self.env_id, disable_env_checker=True, **self.env_kwargs)
        return env


class Actor(Protocol):
    """Runs episodes.

    Attributes:
        block: neighbouring seeds, from the first one, that are run together.
    """

    block: int

    def run(self, seeds: Iterator[int], journal: Journal) -> Iterator[int]:
        """Run episodes, in any order, until ``seeds`` ends; yields each seed that is finished."""

    def describe(self) -> dict[str, Any]:
        """Return what the episodes depend on, as JSON holds it."""


def keep(journal: Journal, trajectory: Trajectory, env: Env) -> None:
    """Put an episode into the journal, its arrays only if it succeeded or failures are kept."""
    if trajectory.success is None and not journal.failures:
        raise PcmError(
            f"{env.spec.id if env.spec else env} reports no success (neither is_success nor "
            "success): give failures=true to keep every episode"
        )
    wanted = trajectory.success or journal.failures
    arrays = demonstration(trajectory, env) if wanted else None
    journal.add(trajectory.seed, arrays, trajectory.attributes)


_env: Env
_expert: Any
_journal: Journal


def _begin(world: World, journal: Journal) -> None:
    """Set up this process: an environment and its expert."""
    global _env, _expert, _journal
    end_with_parent()
    _env, _expert, _journal = world.make(), make_expert(world.task), journal


def _episode(seed: int) -> int:
    _expert.reset(np.random.default_rng([seed, 1]))
    keep(_journal, record(_env, seed, _expert.act), _env)
    return seed


class ExpertActor:
    """The task's scripted expert, one episode a process at a time.

    Args:
        world: its task names the expert.
        workers: spawned processes; 1 works in this one.

    Raises:
        PcmError: there is no expert for the task, or its simulator is not installed.
    """

    def __init__(self, world: World, workers: int) -> None:
        self.world, self.workers, self.block = world, workers, 1
        self._settings = {"by": "expert", **make_expert(world.task).describe()}

    def describe(self) -> dict[str, Any]:
        """Return the expert's settings."""
        return self._settings

    def run(self, seeds: Iterator[int], journal: Journal) -> Iterator[int]:
        """Run episodes.

        Raises:
            PcmError: a worker died; the finished episodes are in the journal.
        """
        if self.workers == 1:
            _begin(self.world, journal)
            with closing(_env):
                yield from map(_episode, seeds)
            return
        pool = ProcessPoolExecutor(
            self.workers, get_context("spawn"), _begin, (self.world, journal)
        )
        running: dict[Future[int], int] = {}
        try:
            while True:
                for seed in islice(seeds, 2 * self.workers - len(running)):
                    running[pool.submit(_episode, seed)] = seed
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    seed = running.pop(future)
                    yield future.result()
        except BrokenProcessPool as error:
            there = ", ".join(map(str, sorted([seed, *running.values()])))
            raise PcmError(
                f"a worker died; unfinished were seeds {there}. The finished episodes are kept in "
                f"{journal.folder}: repeat the command to go on, with fewer workers= if memory ran "
                "out"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


class PolicyActor:
    """A policy, many episodes to a solve.

    Args:
        world: where it acts.
        predict: the policy, as the evaluator calls it.
        seed: of the first episode; blocks are counted from it.
        obs_steps: frames it observes.
        num_envs: environments side by side.
        mode: ``sync`` or ``async``.
        solve_batch: rows of every solve.
        settings: what its episodes depend on.
    """

    def __init__(
        self,
        world: World,
        predict: Any,
        *,
        seed: int,
        obs_steps: int,
        num_envs: int,
        mode: Literal["sync", "async"],
        solve_batch: int,
        settings: Mapping[str, Any],
    ) -> None:
        self.world, self.predict, self.seed, self.obs_steps = world, predict, seed, obs_steps
        self.num_envs, self.mode, self.solve_batch = num_envs, mode, solve_batch
        self.block = solve_batch * -(-num_envs // solve_batch)
        self._settings = {"by": "policy", "solve_batch": solve_batch, **settings}

    def describe(self) -> dict[str, Any]:
        """Return the settings."""
        return self._settings

    def run(self, seeds: Iterator[int], journal: Journal) -> Iterator[int]:
        """Run episodes, whole blocks of them, so that a seed always has the same row of a solve.

        Raises:
            PcmError: the policy could not act at all.
        """
        from pcm_policy.rollout.evaluate import evaluate

        with closing(self.world.make()) as env:
            for seed in seeds:
                first = seed - (seed - self.seed) % self.block
                if journal.outcome(seed) is not None:
                    continue  # ran with an earlier one of its block
                result = evaluate(
                    self.predict,
                    self.world.env_id,
                    episodes=self.block,
                    seed=first,
                    n_obs_steps=self.obs_steps,
                    num_envs=self.num_envs,
                    mode=self.mode,
                    solve_batch=self.solve_batch,
                    record=True,
                    progress=False,
                    **self.world.env_kwargs,
                )
                if all(one.fault and not one.steps for one in result.episodes):
                    last = first + self.block - 1
                    why = result.episodes[0].fault
                    raise PcmError(f"no episode of seeds {first} to {last} could begin: {why}")
                for episode in result.faults:
                    journal.add(episode.seed, None, {})
                    yield episode.seed
                for trajectory in result.trajectories:
                    keep(journal, trajectory, env)
                    yield trajectory.seed
