"""The control loop in real time: one controller, one world, one rate, everything timed.

A tick begins at ``start + n * period``, whenever the last one ended. It observes, takes a plan that
has come in, asks for a new one, and sends a command. A synchronous controller waits for its plan
until ``wait_share`` of the tick is over; an asynchronous one never waits. Two things count as a
deadline miss: a plan that was due and was not there (the controller's ``on_late`` decides what is
sent then), and a command that left after the end of its tick (an overrun). Ticks that an overrun
swallowed are skipped, not made up for.

Frames of cameras are encoded in the thread that solves, when they come and it has nothing else to
do: a solve finds the features of all frames but the newest. ``encode`` is the time of every frame,
``solve`` the time from request to plan, encoding of the newest frame included.
"""

import gc
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pcm_policy.control.background import PlanThread, Solved
from pcm_policy.control.controller import Controller
from pcm_policy.control.plan import Frame, Plan, PlanRequest
from pcm_policy.control.times import Times, growth, resident_mib
from pcm_policy.rollout.worlds import World

STAGES = ("jitter", "observe", "wait", "act", "send", "tick", "encode", "solve", "deadline_slack")
TICK = STAGES[:6]
SPIN_S = 0.0003
KEPT_SPANS = 512
SWITCH_S = 0.0005  # how long a solving thread may keep the interpreter from the loop
Progress = Callable[[Iterable[int], int], Iterable[int]]
"""``progress(ticks, total)`` passes the ticks on and shows how far the loop is."""


@dataclass(frozen=True)
class LoopResult:
    """How a loop went.

    Attributes:
        control_hz: rate that was asked for.
        effective_hz: commands per second that were sent.
        duration_s: time from first to last tick.
        ticks: ticks that were run.
        overruns: commands that left after the end of their tick.
        skipped: ticks swallowed by overruns.
        late_plans: ticks in which a plan was due and not there.
        counts: of the controller.
        times: one record a stage.
        spans: latest solves, ``(begin, end)`` in seconds from the start.
        sent: latest ticks, ``(target, sent, fallback or plan)`` in seconds from the start.
        memory_mib: resident memory, once a second.
        scores: of the episodes that ended.
        bound: largest finite error bound of a plan, normalised units; None if there was none.
        ended: why it ended before its time, or None.
    """

    control_hz: float
    effective_hz: float
    duration_s: float
    ticks: int
    overruns: int
    skipped: int
    late_plans: int
    counts: dict[str, int]
    times: dict[str, Times]
    spans: tuple[tuple[float, float], ...]
    sent: tuple[tuple[float, float, str], ...]
    memory_mib: tuple[float, ...]
    scores: tuple[float, ...]
    bound: float | None
    ended: BaseException | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        why = None if self.ended is None else why_ended(self.ended)
        return {
            **({} if why is None else {"incomplete": why}),
            "control_hz": self.control_hz,
            "effective_hz": self.effective_hz,
            "duration_s": self.duration_s,
            "ticks": self.ticks,
            "deadline_misses": self.late_plans + self.overruns,
            "late_plans": self.late_plans,
            "overruns": self.overruns,
            "skipped_ticks": self.skipped,
            "counts": self.counts,
            "stages_ms": {name: times.summary() for name, times in self.times.items()},
            "memory_mib": {
                "first": self.memory_mib[0],
                "last": self.memory_mib[-1],
                "growth": growth(self.memory_mib),
            },
            "scores": list(self.scores),
            "largest_bound": self.bound,
        }


def run_loop(
    controller: Controller,
    solve: Callable[[PlanRequest], Plan],
    world: World,
    duration_s: float,
    *,
    see: Callable[[Frame], float] | None = None,
    wait_share: float = 0.8,
    progress: Progress = lambda ticks, _: ticks,
) -> LoopResult:
    """Run a loop in real time.

    Args:
        controller: its settings name the rate.
        solve: from request to plan; runs in a thread. Warm it up first.
        world: what is controlled.
        duration_s: how long.
        see: encodes a frame when it comes, in the same thread, and returns the milliseconds.
        wait_share: share of a tick that a synchronous controller waits for its plan.
        progress: shows how far it has come.

    Returns:
        What was timed, also where the world raised or Ctrl-C ended the loop, which it says.
    """
    period = controller.settings.period_ms(controller.spec) / 1e3
    total = max(round(duration_s / period), 1)
    loop = _Loop(controller, world, period, wait_share, total)
    thread = PlanThread(solve, see, controller.spec.obs_steps)
    interval = sys.getswitchinterval()
    gc.collect()
    gc.freeze()  # what is there now is never looked at again by the collector
    sys.setswitchinterval(SWITCH_S)
    try:
        seed, rest = world.begin()
        controller.reset(seed, rest)
        loop.start = time.perf_counter() + period
        for n in progress(range(total), total):
            if n >= loop.next_tick:
                loop.tick(thread, n)
    except (Exception, KeyboardInterrupt) as error:
        if not loop.ticks:
            raise
        loop.ended = error
    finally:
        sys.setswitchinterval(interval)
        gc.unfreeze()
        thread.close()
    return loop.result()


class _Loop:
    """The state of a running loop; all of it is of fixed size."""

    def __init__(
        self, controller: Controller, world: World, period: float, wait_share: float, total: int
    ) -> None:
        self.controller, self.world, self.period = controller, world, period
        self.wait = wait_share * period if controller.settings.mode == "sync" else 0.0
        self.times = {name: Times(total) for name in STAGES}
        self.spans: deque[tuple[float, float]] = deque(maxlen=KEPT_SPANS)
        self.sent: deque[tuple[float, float, str]] = deque(maxlen=KEPT_SPANS)
        self.memory: deque[float] = deque([resident_mib()], maxlen=100_000)
        self.start = self.bound = self.first_sent = self.last_sent = 0.0
        self.next_tick = self.overruns = self.skipped = self.ticks = 0
        self._weighed = 0.0
        self.ended: BaseException | None = None

    def tick(self, thread: PlanThread, n: int) -> None:
        """Run tick ``n``; sets the next one."""
        controller, times, clock = self.controller, self.times, time.perf_counter
        target = self.start + n * self.period
        _sleep_until(target)
        begin = clock()
        controller.observe(self.world.frame())
        self._take(thread.take())
        request = controller.request()
        if request is not None:
            thread.submit(request)
        elif controller.newest is not None:
            controller.drop(thread.show(controller.newest))
        asked = clock()
        if controller.waiting is not None and self.wait > 0:
            self._take(thread.take(max(target + self.wait - asked, 0.0)))
        waited = clock()
        command = controller.act()
        acted = clock()
        over = self.world.send(command.action)
        end = clock()
        if over:
            seed, rest = self.world.begin()
            controller.reset(seed, rest)
        parts = (begin - target, asked - begin, waited - asked, acted - waited, end - acted)
        for name, spent in zip(TICK, (*parts, end - begin), strict=True):
            times[name].add(spent * 1e3)
        for spent in thread.encoded():
            times["encode"].add(spent)
        times["deadline_slack"].add(max(target + self.period - acted, 0.0) * 1e3)
        self.sent.append((target - self.start, acted - self.start, command.how))
        self.first_sent = self.first_sent if self.ticks else acted
        self.last_sent = acted
        self.ticks += 1
        self.overruns += acted > target + self.period
        self.next_tick = max(n + 1, int((clock() - self.start) / self.period))
        self.skipped += self.next_tick - n - 1
        if end - self._weighed > 1.0:
            self._weighed = end
            self.memory.append(resident_mib())

    def _take(self, solved: Solved | None) -> None:
        if solved is None:
            return
        self.times["solve"].add(solved.latency_ms)
        self.spans.append((solved.begin_s - self.start, solved.end_s - self.start))
        if solved.plan is None:
            self.controller.reject(solved.request.id, solved.error)
            return
        if solved.plan.encode_ms:
            self.times["encode"].add(solved.plan.encode_ms)
        self.controller.accept(solved.plan, solved.latency_ms)
        if solved.plan.bound < float("inf"):
            self.bound = max(self.bound, solved.plan.bound)

    def result(self) -> LoopResult:
        """Summarise."""
        counts = dict(self.controller.record.counts)
        duration = time.perf_counter() - self.start
        return LoopResult(
            control_hz=1 / self.period,
            effective_hz=(self.ticks - 1) / max(self.last_sent - self.first_sent, self.period),
            duration_s=duration,
            ticks=self.ticks,
            overruns=self.overruns,
            skipped=self.skipped,
            late_plans=counts.get("misses", 0),
            counts=counts,
            times=self.times,
            spans=tuple(self.spans),
            sent=tuple(self.sent),
            memory_mib=(*self.memory, resident_mib()),
            scores=tuple(self.world.scores()),
            bound=self.bound or None,
            ended=self.ended,
        )


def why_ended(error: BaseException) -> str:
    """Say in one line what ended a loop."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    return f"ended by {type(error).__name__}: {text}"


def _sleep_until(target: float) -> None:
    """Sleep, and spin for the last fraction of a millisecond."""
    rest = target - time.perf_counter() - SPIN_S
    if rest > 0:
        time.sleep(rest)
    while time.perf_counter() < target:
        pass
