"""Many controllers at once: who moves, who waits for a solve, and when solves are done."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from tqdm import tqdm

from pcm_policy.control.config import Rest
from pcm_policy.control.controller import Controller
from pcm_policy.control.delay import DelayEstimator, LatencyModel, to_steps
from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings
from pcm_policy.rollout.episodes import _calls
from pcm_policy.serving.planner import Planner

Watch = Callable[[PlanRequest, Plan], None]
"""Sees every request with its plan."""
WARMUP = 5


@dataclass
class Episode:
    """One episode as far as it has gone: what it awaits until when, and what it did."""

    index: int
    controller: Controller
    score: float = -np.inf
    success: bool = False
    request: PlanRequest | None = None
    plan: Plan | None = None
    latency: float = 0.0
    arrival: int = 0
    observed: bool = False
    commands: list[NDArray[np.float32]] = field(default_factory=list)
    seams: list[bool] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)


class Runner:
    """Runs episodes; see :func:`pcm_policy.rollout.simulate.simulate` for the arguments."""

    def __init__(
        self,
        planner: Planner,
        latency: LatencyModel,
        settings: ControlSettings,
        seed: int,
        solve_batch: int,
        rest: Rest | None,
        initial: int | None,
    ) -> None:
        self.planner, self.latency, self.settings = planner, latency, settings
        self.seed, self.batch, self.rest, self.initial = seed, solve_batch, rest, initial
        self.watch: Watch | None = None
        self.period_ms = settings.period_ms(planner.spec)
        if latency.measured:  # what a first call costs is not what a robot in motion would see
            probe = Controller(planner.spec, settings)
            probe.observe(np.add(planner.spec.obs_low, planner.spec.obs_high) / 2)
            request = probe.request()
            assert request is not None
            for _ in range(WARMUP):
                _, spent = self._timed(request)
            self.measured_ms = spent
        else:
            self.measured_ms = 0.0

    def run(self, envs: VectorEnv[Any, Any, Any], episodes: int, bar: "tqdm[Any]") -> list[Episode]:
        """Run all episodes; environment s takes every ``num_envs``-th."""
        count = envs.num_envs
        slots = [self._episode(i) for i in range(count)]
        over = np.ones(count, np.bool_)
        done: list[Episode] = []
        first = True
        while True:
            if over.any():
                if not first:
                    slots = [
                        self._episode(e.index + count) if over[s] else e
                        for s, e in enumerate(slots)
                    ]
                seeds: Any = [self.seed + e.index for e in slots]
                observation, _ = envs.reset(seed=seeds, options={"reset_mask": over})
                for s in np.flatnonzero(over).tolist():
                    self._begin(slots[s], _row(observation, s))
                first, over = False, np.zeros(count, np.bool_)
            live = [s for s in range(count) if slots[s].index < episodes]
            if not live:
                return sorted(done, key=lambda e: e.index)
            actions = np.full((count, 1, self.planner.spec.action_dim), np.nan, np.float32)
            moving = [
                s for s in live if self._advance(slots[s], _row(observation, s), actions[s, 0])
            ]
            if not moving:
                self._solve([slots[s] for s in live])
                continue
            observation, rewards, terminated, truncated, info = envs.step(actions)
            for s in moving:
                episode = slots[s]
                episode.observed = False
                if int(info["steps"][s]) == 0:  # nothing was sent: the world did not move
                    continue
                episode.score = max(episode.score, float(rewards[s]))
                episode.success |= bool(info["is_success"][s])
                over[s] = terminated[s] or truncated[s]
                if over[s]:
                    done.append(episode)
                    bar.update()
            if over.any():
                bar.set_postfix(score=f"{np.mean([e.score for e in done]):.3f}")

    def _episode(self, index: int) -> Episode:
        seed, settings = self.seed + index, self.settings
        initial = self.initial
        if initial is None:
            drawn = self.latency.latency_ms(seed, 0, self.measured_ms)
            initial = to_steps(drawn, self.period_ms)
        delay = DelayEstimator(self.period_ms, initial_steps=initial, warmup=0)
        return Episode(index, Controller(self.planner.spec, settings, seed, delay))

    def _begin(self, episode: Episode, frame: Any) -> None:
        rest = None if self.rest is None else self.rest(frame)
        episode.controller.reset(self.seed + episode.index, rest)

    def _advance(self, episode: Episode, frame: Any, out: NDArray[np.float32]) -> bool:
        """Take an episode through one tick; False if it has to wait for a solve."""
        controller = episode.controller
        if not episode.observed:
            controller.observe(frame)
            episode.observed = True
            request = controller.request()
            if request is not None:
                self._start(episode, request)
        if episode.request is not None and episode.arrival <= controller.tick:
            if episode.plan is None:
                return False
            controller.accept(episode.plan, episode.latency)
            episode.latencies.append(episode.latency)
            episode.request = episode.plan = None
        command = controller.act()
        if command.action is not None:
            out[:] = command.action
            episode.commands.append(command.action)
            episode.seams.append(command.seam)
        return True

    def _start(self, episode: Episode, request: PlanRequest) -> None:
        episode.request, episode.plan, spent = request, None, 0.0
        if self.latency.measured:
            plan, spent = self._timed(request)
            self._deliver(episode, plan)
        latency = self.latency.latency_ms(request.seed, request.tick, spent)
        steps = to_steps(latency, self.period_ms)
        if self.settings.mode == "sync" and not _whole(latency, self.period_ms):
            steps -= 1  # the rest of the tick is waited for
        episode.latency, episode.arrival = latency, request.tick + steps

    def _timed(self, request: PlanRequest) -> tuple[Plan, float]:
        begin = time.perf_counter()
        plan = self.planner.plan(request)
        return plan, (time.perf_counter() - begin) * 1e3

    def _deliver(self, episode: Episode, plan: Plan) -> None:
        episode.plan = plan
        episode.rounds.append(plan.rounds)
        if self.watch is not None and episode.request is not None:
            self.watch(episode.request, plan)

    def _solve(self, live: Sequence[Episode]) -> None:
        """Solve for everybody who waits, and for those who will, in their own rows."""
        waiting = [e for e in live if e.request is not None and e.plan is None]
        indices = np.array([e.index for e in waiting], np.int64)
        for seats in _calls(np.arange(len(waiting)), indices, self.batch):
            chosen = [waiting[i] for i in seats.values()]
            requests = [e.request for e in chosen if e.request is not None]
            plans = self.planner.plan_batch(requests, list(seats), self.batch)
            for episode, plan in zip(chosen, plans, strict=True):
                self._deliver(episode, plan)


def _row(observation: Any, slot: int) -> Any:
    """Return the observation of one environment: an array, or a dictionary of arrays."""
    if isinstance(observation, Mapping):
        return {name: values[slot] for name, values in observation.items()}
    return observation[slot]


def _whole(latency_ms: float, period_ms: float) -> bool:
    """Whether a latency is a number of control steps: such a one is meant, and all are lost."""
    return abs(latency_ms / period_ms - round(latency_ms / period_ms)) < 1e-6
