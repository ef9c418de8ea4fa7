"""The controller: observation history, action queue, noise, warm start and fallbacks in one object.

It has no clock, no thread and no torch. Every path drives the same five calls, once per tick::

    controller.observe(frame)              # the newest observation
    request = controller.request()         # what to solve now, or None
    controller.accept(plan, latency_ms)    # whenever a solve has ended; or controller.reject(...)
    command = controller.act()             # what the robot gets in this tick

Timing, with ``To = 2`` observed, ``Ta = 4`` executed and ``T = 10`` predicted steps, where a solve
takes ``d = 2`` ticks::

    tick             0   1   2   3   4   5   6   7   8   9  10
    chunk A    a-1  a0  a1  a2  a3  a4  a5  a6  a7  a8              from the observation of tick 0
    requested                        B                              in tick 4 = Ta
    chunk B                     b-1 b0  b1  b2  b3  b4  b5  b6 ...  from the observation of tick 4
    usable                                  B                       d ticks later
    executed         a0  a1  a2  a3  a4  a5  b2  b3 ...             async: b0, b1 came too late
    prefix                           a4  a5                         what b0, b1 are frozen to
    executed         a0  a1  a2  a3  --  --  b0  b1 ...             sync: the robot waits

A chunk has ``T - To + 1`` usable actions, so an asynchronous controller needs ``Ta + d`` of them.

*Steps, not ticks.* The controller's ``clock`` counts executed steps of plans. It stands still while
the robot holds, and runs slower while the robot is slowed down. Chunks are aligned on this clock:
the controller drops exactly the actions whose time was used for something else. Waiting (``sync``)
and catching up (``async``) are therefore the same rule.

*A miss* is a tick in which a plan was due and was not there. A plan is due after the delay that was
expected at its request: zero steps in ``sync``, the estimate or ``delay_steps`` in ``async``. The
setting ``on_late`` says what the robot does then; in ``sync`` it holds, because no plan is left to
continue.
"""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np

from pcm_policy.checks import LARGEST_SEED, numbers, whole
from pcm_policy.control.delay import DelayEstimator
from pcm_policy.control.frames import BadFrame, read_frame
from pcm_policy.control.plan import Actions, ActiveChunk, Frame, Plan, PlanRequest, blend
from pcm_policy.control.safety import Gate, Record, chunk_fault
from pcm_policy.control.settings import ControlSettings, PolicySpec
from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class Command:
    """The command of one tick.

    Attributes:
        tick: control step.
        action: ``(Da,)`` raw units, finite, within the limits. None means: send nothing, there is
            no plan yet.
        how: ``plan``, or the fallback: ``continue``, ``hold``, ``slow`` or ``stop``.
        why: reason of a fallback, else empty.
        seam: whether this is the first action of a new plan.

    Example:
        >>> Command(tick=3, action=None, how="hold", why="no plan yet").how
        'hold'
    """

    tick: int
    action: Actions | None
    how: str
    why: str = ""
    seam: bool = False


class Controller:
    """One robot's controller.

    Args:
        spec: the policy's shapes and ranges.
        settings: modes, limits and fallbacks.
        seed: of the episode; names its noise.
        delay: estimator of the solve's delay, shared between episodes if you like.

    Attributes:
        record: counts and the latest events, over all episodes.
        gaps: ``(tick, distance)`` of consecutive plans where they overlap, root mean square in
            units of the action range.

    Example:
        >>> import numpy as np
        >>> from pcm_policy.control import Controller, Plan, PolicySpec
        >>> spec = PolicySpec(
        ...     obs_dim=2, action_dim=1, horizon=4, obs_steps=1, action_steps=2, control_hz=10,
        ...     obs_low=(-1, -1), obs_high=(1, 1), action_low=(-1,), action_high=(1,),
        ... )
        >>> controller = Controller(spec)
        >>> controller.observe(np.zeros(2))
        >>> request = controller.request()
        >>> plan = Plan(request.id, np.full((4, 1), 0.5, np.float32))  # here a policy solves
        >>> controller.accept(plan, latency_ms=20.0)
        True
        >>> command = controller.act()
        >>> command.how, command.action.tolist()
        ('plan', [0.5])
    """

    def __init__(
        self,
        spec: PolicySpec,
        settings: ControlSettings | None = None,
        seed: int = 0,
        delay: DelayEstimator | None = None,
    ) -> None:
        self.spec = spec
        self.settings = settings = settings or ControlSettings()
        settings.check(spec)
        self.delay = delay or DelayEstimator(settings.period_ms(spec))
        self.record = Record()
        self._gate = Gate(settings.limits(), settings.on_limit)
        self._requests = 0
        self.reset(seed)

    def reset(self, seed: int, rest: Actions | None = None) -> None:
        """Start an episode.

        Args:
            seed: names its noise, 0 or above.
            rest: ``(Da,)`` command that keeps the robot where it is, held until the first plan.

        Raises:
            PcmError: no seed, or a ``rest`` of another shape or not finite; the episode before
                goes on.
        """
        whole("seed", seed, 0, LARGEST_SEED)
        first = None if rest is None else self._rest(rest)
        self.seed, self.tick, self.clock, self.stopped = seed, -1, 0.0, False
        self.gaps: deque[tuple[int, float]] = deque(maxlen=4096)
        self._frames: deque[Frame] = deque(maxlen=self.spec.obs_steps)
        self._past: deque[Actions] = deque(maxlen=max(self.spec.obs_steps - 1, 1))
        self._chunk: ActiveChunk | None = None
        self._planned = 0.0
        self._pending: PlanRequest | None = None
        self._due = 0
        self._memory: Any = None
        self._memory_clock = 0.0
        self._frame_fault: str | None = "no observation yet"
        self._solve_fault: str | None = None
        self._seam = False
        self._last = first
        self.record.new_episode()

    def observe(self, frame: Any) -> None:
        """Begin a tick with its observation; one that is not usable is not kept.

        Args:
            frame: ``(Do,)``, or a dictionary that has the entries ``spec.obs_fields`` and an image
                of every camera; see :func:`~pcm_policy.control.frames.read_frame`.
        """
        self.tick += 1
        self.record.count("ticks")
        try:
            kept = read_frame(frame, self.spec)
        except BadFrame as error:
            self._frame_fault = str(error)
            self.record.event(self.tick, error.kind, self._frame_fault)
            return
        self._frame_fault = None
        self._frames.extend([kept] * (1 if self._frames else self.spec.obs_steps))

    def request(self) -> PlanRequest | None:
        """Return what to solve now, or None: not yet, not twice, and never from a bad frame."""
        if self._pending is not None or self._frame_fault is not None or self.stopped:
            return None
        settings, due = self.settings, 0
        fresh = self._chunk is not None and self._solve_fault is None
        if fresh and self.clock < self._planned + settings.replan(self.spec):
            return None
        if settings.mode == "async":
            due = self.delay.steps if settings.delay_steps is None else settings.delay_steps
        prefix, past = self._prefix(due)
        self._requests += 1
        self._due = self.tick + due
        self._pending = PlanRequest(
            id=self._requests,
            seed=self.seed,
            tick=self.tick,
            clock=self.clock,
            obs=np.stack([frame.state for frame in self._frames]),
            prefix=prefix,
            past=past,
            executed=int(self.clock - self._memory_clock),
            warm_start=settings.warm_start,
            couple_noise=settings.couple_noise,
            prefix_input=settings.prefix_input,
            memory=self._memory,
            frames=tuple(self._frames) if self.spec.cameras else (),
        )
        self.record.count("requests")
        return self._pending

    def accept(self, plan: Plan, latency_ms: float | None = None) -> bool:
        """Take a solve's result; returns whether its actions will be executed.

        Args:
            plan: the answer to the outstanding request; any other one is dropped.
            latency_ms: time from the request until now, for the delay estimate.
        """
        request = self._pending
        if request is None or plan.id != request.id:
            self.record.event(self.tick, "stale_plan", f"plan {plan.id} is not the one awaited")
            return False
        fault = plan.fault or chunk_fault(plan.actions, self.spec)
        if fault is not None:
            self.reject(plan.id, fault)
            return False
        if latency_ms is not None:
            self.delay.record(latency_ms)
        for _ in range(plan.late_frames):
            self.record.event(self.tick, "late_frame", "it was encoded while a solve waited for it")
        self._pending = None
        age, oldest = self.tick - request.tick, self.settings.stale_steps or self.spec.usable
        if age > oldest or self.clock - request.clock >= self.spec.usable:
            self._solve_fault = f"plan is {age} ticks old"
            self.record.event(self.tick, "stale_plan", f"{self._solve_fault}, at most {oldest}")
            return False
        new = ActiveChunk(request.clock, np.asarray(plan.actions, np.float32))
        self._note_gap(new)
        if self._chunk is not None and self.settings.blend_steps:
            new = blend(self._chunk, new, self.clock, self.settings.blend_steps)
        self._chunk, self._planned, self._seam, self._solve_fault = new, new.start, True, None
        self._memory, self._memory_clock = plan.memory, request.clock
        self.record.count("plans")
        return True

    def reject(self, request_id: int, reason: str) -> None:
        """Report that a solve failed; the next tick asks again."""
        if self._pending is None or request_id != self._pending.id:
            return
        self._pending, self._solve_fault = None, reason
        self.record.event(self.tick, "failed_solve", reason)

    def drop(self, frames: int) -> None:
        """Count frames that were given up before they were encoded, because newer ones came."""
        for _ in range(frames):
            self.record.event(self.tick, "dropped_frame", "a newer frame came before it")

    @property
    def newest(self) -> Frame | None:
        """The frame of this tick, to be encoded; None without cameras or if it is not usable."""
        known = bool(self.spec.cameras) and self._frame_fault is None
        return self._frames[-1] if known else None

    @property
    def waiting(self) -> PlanRequest | None:
        """The outstanding request."""
        return self._pending

    def act(self) -> Command:
        """End a tick with its command."""
        how, why = self._mode()
        action: Actions | None = None
        if how == "stop" and not self.stopped:
            self.stopped = True
            self.record.event(self.tick, "stopped", why)
        if how in ("plan", "continue", "slow"):
            action = None if self._chunk is None else self._chunk.at(self.clock)
            if action is None:
                how, why = "hold", why or "no plan is left"
            else:
                self.clock += self.settings.slow_factor if how == "slow" else 1.0
        if action is not None:
            action, how, why = self._through_gate(action, how, why)
        if action is None:
            action = self._held()
        if how != "plan":
            self.record.count(how)
        seam = self._seam and how == "plan"
        self._seam = self._seam and not seam
        if action is not None:
            self._last = action
            self._past.append(action)
        return Command(self.tick, None if action is None else action.copy(), how, why, seam)

    def _rest(self, rest: Any) -> Actions | None:
        values = numbers("rest", rest)
        if values.shape != (self.spec.action_dim,) or not np.isfinite(values).all():
            raise PcmError(
                f"rest={np.array2string(values, threshold=8)}: give the command that keeps the "
                f"robot where it is, ({self.spec.action_dim},) and finite"
            )
        return self._gate.check(values.astype(np.float32), None)[0]

    def _mode(self) -> tuple[str, str]:
        settings = self.settings
        if self.stopped:
            return "stop", "stopped"
        if self._frame_fault is not None:
            return settings.on_observation, "bad observation"
        if self._pending is not None and self.tick >= self._due:
            self.record.count("misses")
            if self._chunk is None or settings.mode == "sync":
                return ("stop" if settings.on_late == "stop" else "hold"), "plan is late"
            return settings.on_late, "plan is late"
        if self._solve_fault is not None:
            return settings.on_solve, "failed solve"
        return "plan", ""

    def _through_gate(self, action: Actions, how: str, why: str) -> tuple[Actions | None, str, str]:
        allowed, fault = self._gate.check(action, self._last)
        if fault is None:
            return allowed, how, why
        self.record.event(self.tick, "limited", f"command {action} is {fault}")
        if self.settings.on_limit == "stop":
            self.stopped = True
            self.record.event(self.tick, "stopped", fault)
            return None, "stop", fault
        return allowed, (how if allowed is not None else "hold"), fault

    def _held(self) -> Actions | None:
        """Return what a robot that holds is sent, or None where there is no last command."""
        given = self.settings.hold
        if given is None or self._last is None:
            return self._last
        pairs = zip(given, self._last, strict=True)
        held = np.array([last if value is None else value for value, last in pairs], np.float32)
        allowed = self._gate.check(held, self._last)[0]
        return self._last if allowed is None else allowed

    def _prefix(self, due: int) -> tuple[Actions, int]:
        none = np.zeros((0, self.spec.action_dim), np.float32)
        if not self.settings.prefix or self._chunk is None:
            return none, 0
        ahead = self._chunk.ahead(self.clock, due)
        back = self.spec.obs_steps - 1
        if not self.settings.prefix_past or back == 0 or len(self._past) < back:
            return ahead, 0
        return np.concatenate([np.stack(list(self._past)), ahead]), back

    def _note_gap(self, new: ActiveChunk) -> None:
        if self._chunk is None:
            return
        old = self._chunk.ahead(self.clock, self.spec.usable)
        count = min(len(old), len(new.ahead(self.clock, self.spec.usable)))
        if count:
            off = (new.ahead(self.clock, count) - old[:count]) / self.spec.action_range
            self.gaps.append((self.tick, float(np.sqrt(np.mean(np.square(off))))))
