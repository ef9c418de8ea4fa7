"""Which episodes to run, where, and how many side by side."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from pcm_policy.envs.vector import ActionChunks, Env, Frames, Wrap, find_spec, make_vector
from pcm_policy.errors import PcmError
from pcm_policy.rollout.episodes import Agent, Run, run_episodes
from pcm_policy.rollout.seats import Seats


@dataclass(frozen=True)
class Trials:
    """Episodes of one environment.

    Attributes:
        env_id: a gymnasium id.
        episodes: number of episodes, at least 1.
        seed: environment seed of the first one; the others count on from it.
        num_envs: environments side by side.
        mode: ``sync`` (this process) or ``async`` (one process an environment).
        max_steps: longest episode; None takes the environment's own limit.
        timeout_s: how long a reset or a step may take in ``async``; None waits for ever.
        env_kwargs: for ``gymnasium.make``.
        chosen: numbers of the episodes to run, from 0; None for all.

    Raises:
        PcmError: a number out of range, an unknown environment, or one without an end.
    """

    env_id: str
    episodes: int
    seed: int = 0
    num_envs: int = 32
    mode: Literal["sync", "async"] = "sync"
    max_steps: int | None = None
    timeout_s: float | None = None
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    chosen: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if min(self.episodes, self.num_envs) < 1 or self.seed < 0:
            raise PcmError("episodes and num_envs are at least 1, seed 0")
        if self.max_steps is not None and self.max_steps < 1:
            raise PcmError(f"max_steps is at least 1, not {self.max_steps}")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise PcmError(f"timeout_s={self.timeout_s}: use a positive number of seconds, or null")
        if self.timeout_s is not None and self.mode == "sync":
            raise PcmError(
                f"timeout_s={self.timeout_s} with mode=sync: an environment in this process cannot "
                "be left waiting; use mode=async"
            )
        if find_spec(self.env_id).max_episode_steps is None and self.max_steps is None:
            raise PcmError(f"{self.env_id} has no limit of its own: give max_steps")

    @property
    def numbers(self) -> Sequence[int]:
        """Numbers of the episodes to run."""
        return range(self.episodes) if self.chosen is None else self.chosen

    @property
    def kwargs(self) -> dict[str, Any]:
        """What an environment is made with."""
        limit = {} if self.max_steps is None else {"max_episode_steps": self.max_steps}
        return {**self.env_kwargs, **limit}

    def seats(self, obs_steps: int | None, wrap: Wrap | None = None) -> Seats:
        """Make the environments.

        Args:
            obs_steps: frames of an observation, as the agent wants them.
            wrap: applied to every environment, as a disturbance; picklable for ``async``.
        """
        wrapped = partial(_wrapped, wrap=wrap, obs_steps=obs_steps)
        count = min(self.num_envs, len(self.numbers))
        envs = make_vector(self.env_id, count, self.mode, wrap=wrapped, **self.kwargs)
        return Seats(envs, self.timeout_s)

    def run(
        self,
        agent: Agent,
        *,
        seats: Seats | None = None,
        finished: Callable[[Run], None] = lambda _: None,
        progress: bool = True,
    ) -> list[Run]:
        """Run the episodes.

        Args:
            agent: who acts.
            seats: environments to use, which stay open; None makes some and closes them.
            finished: is told of every episode when it is over.
            progress: show a bar, if the terminal is interactive.

        Returns:
            The episodes, in the order of their numbers.

        Raises:
            Interrupted: not all ran; it has those that had finished.
        """
        own, broken, scores = seats is None, True, list[float]()
        used = self.seats(agent.obs_steps) if seats is None else seats
        quiet = None if progress else True
        chosen = [Run(number, self.seed + number) for number in self.numbers]
        bar = tqdm(total=len(chosen), desc=self.env_id, unit="ep", disable=quiet)

        def tell(run: Run) -> None:
            finished(run)
            scores.append(run.score)
            bar.update()
            bar.set_postfix(score=f"{np.mean(scores):.3f}")

        try:
            runs = run_episodes(agent, used, chosen, tell)
            broken = False
        finally:
            bar.close()
            if own or broken:
                used.close(broken)
        return runs


def _wrapped(env: Env, wrap: Wrap | None, obs_steps: int | None) -> Env:
    if wrap is None:
        seen = obs_steps or 1
    else:  # a disturbance may look at every frame
        env, seen = wrap(env), None
    return ActionChunks(env if obs_steps is None else Frames(env, obs_steps), seen)
