"""Latency-aware evaluation: a controller for every episode, in a world that keeps moving.

A plan that is requested at tick ``t`` and takes ``L`` milliseconds is there at tick
``t + ceil(L / period)`` (asynchronous) or, as a synchronous robot may wait within the tick as well,
one tick earlier. An environment step is one control step, whatever ``control_hz`` says: a higher
rate is a faster world.

Latencies are a function of seed and tick, and episode i has row ``i % solve_batch`` of solves of
exactly ``solve_batch`` rows. As nothing flows from the world to the solver while a solve runs,
solves are put off until a plan is due and then done for many episodes at once.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pcm_policy.control.config import Rest
from pcm_policy.control.controller import Controller
from pcm_policy.control.delay import DelayEstimator, LatencyModel, to_steps
from pcm_policy.control.plan import Plan, PlanRequest
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.rollout.episodes import Actions, Run, Seated, in_rows
from pcm_policy.rollout.flight import ControlOutcome, Flight
from pcm_policy.rollout.seams import SeamSums, seam_sums
from pcm_policy.runtime.timing import take_turns
from pcm_policy.serving.planner import Planner

Watch = Callable[[PlanRequest, Plan], None]
"""Sees every request with its plan."""
WARMUP = 4
KEPT_OBSERVATIONS = 256
FRUITLESS = 20
"""Plans and observations in a row that give no command, after which an episode is ended."""


@dataclass
class Pilot:
    """The controller of one episode: what it awaits until when, and what it did."""

    controller: Controller
    request: PlanRequest | None = None
    plan: Plan | None = None
    latency: float = 0.0
    arrival: int = 0
    observed: bool = False
    seams: list[bool] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    encodes: list[float] = field(default_factory=list)
    rounds: list[int] = field(default_factory=list)
    fruitless: int = 0


class ControlAgent:
    """Acts through a controller in every episode.

    Args:
        planner: policy and solver.
        latency: how long solves take.
        settings: how every controller works.
        solve_batch: rows of every solve; measured latencies are always of one row.
        rest: what the robot does until its first plan; None lets the world stand still until then.
        initial_delay_steps: the controllers' first delay estimate; None asks the latency model.
        watch: sees every request and its plan.

    Raises:
        PcmError: a number below 1, or settings that do not fit the policy.
    """

    obs_steps: int | None = None  # a controller has a history of its own

    def __init__(
        self,
        planner: Planner,
        latency: LatencyModel,
        settings: ControlSettings | None = None,
        *,
        solve_batch: int = 32,
        rest: Rest | None = None,
        initial_delay_steps: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.settings = settings = settings or ControlSettings()
        settings.check(planner.spec)
        if solve_batch < 1:
            raise PcmError(f"solve_batch is at least 1, not {solve_batch}")
        self.planner, self.latency, self.rest, self.watch = planner, latency, rest, watch
        self.batch, self.initial = solve_batch, initial_delay_steps
        self.period_ms = settings.period_ms(planner.spec)
        self.measured_ms = self._warm_up() if latency.measured else 0.0
        self._pilots: dict[int, Pilot] = {}
        self._seen: list[Any] = []

    def _warm_up(self) -> float:
        """Solve a few times: what a first call costs is not what a robot in motion would see."""
        warm, coupled = self.settings.warm_start, self.settings.couple_noise

        def solve(_: int) -> None:
            request = self.planner.example("plain")  # with a new frame, which is encoded
            self.planner.plan(replace(request, warm_start=warm, couple_noise=coupled))

        return take_turns([solve], 1, warmup=WARMUP)[0][0]

    def begin(self, run: Run, observation: Any) -> None:
        """Give an episode its controller."""
        initial = self.initial
        if initial is None:
            drawn = self.latency.latency_ms(run.seed, 0, self.measured_ms)
            initial = to_steps(drawn, self.period_ms)
        delay = DelayEstimator(self.period_ms, initial_steps=initial, warmup=0)
        controller = Controller(self.planner.spec, self.settings, run.seed, delay)
        controller.reset(run.seed, None if self.rest is None else self.rest(observation))
        self._pilots[run.index] = Pilot(controller)

    def act(self, seated: Seated) -> Sequence[Actions | None]:
        """Take as many episodes as possible through one tick; solve when all wait."""
        pilots = [self._pilots[run.index] for run, _ in seated]
        while True:
            moves = [
                self._advance(pilot, frame)
                for pilot, (_, frame) in zip(pilots, seated, strict=True)
            ]
            if any(moved for moved, _ in moves):
                self._end_fruitless(seated, pilots)
                return [action for _, action in moves]
            self._solve([run.index for run, _ in seated], pilots)

    def flight(self, run: Run) -> Flight:
        """Return what the controller of an episode did."""
        pilot, commands = self._pilots[run.index], run.actions
        record, gaps = pilot.controller.record, [gap for _, gap in pilot.controller.gaps]
        seams = np.array(pilot.seams[: len(commands)], np.bool_)
        hz = self.settings.control_hz or self.planner.spec.control_hz
        smooth = seam_sums(commands, seams, gaps, hz) if len(commands) else SeamSums(0, {}, {})
        counts, rounds = dict(record.counts), list(pilot.rounds)
        return Flight(counts, smooth, list(pilot.latencies), rounds, list(pilot.encodes))

    def outcome(self, runs: Sequence[Run]) -> ControlOutcome:
        """Summarise what the controllers did in some episodes."""
        return ControlOutcome.of([self.flight(run) for run in runs])

    def observations(self) -> list[Any]:
        """Return some of the observations that were planned from, each as ``predict`` takes it."""
        return list(self._seen)

    def _advance(self, pilot: Pilot, frame: Any) -> tuple[bool, Actions | None]:
        """Take an episode through one tick: whether it moved, or has to wait; and its command."""
        controller = pilot.controller
        if not pilot.observed:
            controller.observe(frame)
            pilot.observed = True
            request = controller.request()
            if request is not None:
                self._start(pilot, request)
        arrived = pilot.request is not None and pilot.arrival <= controller.tick
        if arrived:
            if pilot.plan is None:
                return False, None
            controller.accept(pilot.plan, pilot.latency)
            pilot.latencies.append(pilot.latency)
            pilot.request = pilot.plan = None
        command = controller.act()
        pilot.observed = False
        if command.action is None:
            pilot.fruitless += arrived or pilot.request is None
            return True, None
        pilot.fruitless = 0
        pilot.seams.append(command.seam)
        return True, command.action[None]

    def _end_fruitless(self, seated: Seated, pilots: Sequence[Pilot]) -> None:
        """End episodes whose robot stands still and would do so for ever."""
        for pilot, (run, _) in zip(pilots, seated, strict=True):
            if pilot.fruitless < FRUITLESS:
                continue
            last = " ".join(detail for _, _, detail in list(pilot.controller.record.events)[-1:])
            run.end(
                f"the robot stood still, as {FRUITLESS} plans or observations in a row gave no "
                f"command ({last}); control.hold or the task's position_dims say what it is sent "
                "meanwhile"
            )

    def _start(self, pilot: Pilot, request: PlanRequest) -> None:
        pilot.request, pilot.plan, spent = request, None, 0.0
        if len(self._seen) < KEPT_OBSERVATIONS:
            self._seen.append(request.observation)
        for frame in request.frames[:-1]:  # a robot's planner has encoded them when they came
            if frame is not request.frames[-1]:
                pilot.encodes += [ms for ms in [self.planner.see(frame)] if ms]
        if self.latency.measured:
            plan, spent = self._timed(request)
            self._deliver(pilot, plan)
        latency = self.latency.latency_ms(request.seed, request.tick, spent)
        steps = to_steps(latency, self.period_ms)
        if self.settings.mode == "sync" and not _whole(latency, self.period_ms):
            steps -= 1  # the rest of the tick is waited for
        pilot.latency, pilot.arrival = latency, request.tick + steps

    def _timed(self, request: PlanRequest) -> tuple[Plan, float]:
        begin = time.perf_counter()
        plan = self.planner.plan(request)
        return plan, (time.perf_counter() - begin) * 1e3

    def _deliver(self, pilot: Pilot, plan: Plan) -> None:
        pilot.plan = plan
        pilot.rounds.append(plan.rounds)
        pilot.encodes += [plan.encode_ms] if plan.encode_ms else []
        if self.watch is not None and pilot.request is not None:
            self.watch(pilot.request, plan)

    def _solve(self, indices: Sequence[int], pilots: Sequence[Pilot]) -> None:
        """Solve for everybody who waits, and for those who will, in their own rows."""
        waiting = [
            (index, pilot)
            for index, pilot in zip(indices, pilots, strict=True)
            if pilot.request is not None and pilot.plan is None
        ]
        for seats in in_rows([index for index, _ in waiting], self.batch):
            chosen = [waiting[place][1] for place in seats.values()]
            requests = [pilot.request for pilot in chosen if pilot.request is not None]
            plans = self.planner.plan_batch(requests, list(seats), self.batch)
            for pilot, plan in zip(chosen, plans, strict=True):
                self._deliver(pilot, plan)


def _whole(latency_ms: float, period_ms: float) -> bool:
    """Whether a latency is a number of control steps: such a one is meant, and all are lost."""
    return abs(latency_ms / period_ms - round(latency_ms / period_ms)) < 1e-6
