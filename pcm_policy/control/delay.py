"""How long a solve takes: estimated from the past in a loop, drawn from a model in simulation."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import number, whole
from pcm_policy.errors import PcmError

WINDOW = 64
LATENCY_STREAM = 2  # 0 and 1 are the streams of pcm_policy.sampling.noise


def to_steps(latency_ms: float, period_ms: float) -> int:
    """Return the control steps until a plan can be used: the next tick after it is there."""
    return max(int(np.ceil(latency_ms / period_ms - 1e-6)), 0)


class DelayEstimator:
    """The p95 of a window of past latencies, in control steps.

    Args:
        period_ms: duration of a control step.
        initial_steps: estimate before any latency was recorded.
        warmup: number of first latencies that are ignored, because they include imports,
            allocations and slow clocks.
        window: number of latencies kept.

    Example:
        >>> delay = DelayEstimator(period_ms=100)
        >>> for latency_ms in (900, 120, 130):  # the first is a warm-up
        ...     delay.record(latency_ms)
        >>> delay.latency_ms, delay.steps
        (129.5, 2)
    """

    def __init__(
        self, period_ms: float, initial_steps: int = 1, warmup: int = 1, window: int = WINDOW
    ) -> None:
        self.period_ms = number("period_ms", period_ms, above=0)
        self._initial = whole("initial_steps", initial_steps)
        self._warmup = whole("warmup", warmup)
        self._past: deque[float] = deque(maxlen=window)

    def record(self, latency_ms: float) -> None:
        """Count the time from a request to its plan.

        Raises:
            PcmError: it is not a time.
        """
        number("latency_ms", latency_ms, 0)
        if self._warmup > 0:
            self._warmup -= 1
        else:
            self._past.append(latency_ms)

    @property
    def latency_ms(self) -> float | None:
        """The p95 so far, or None."""
        return float(np.percentile(self._past, 95)) if self._past else None

    @property
    def steps(self) -> int:
        """Control steps that the next solve is expected to take."""
        latency = self.latency_ms
        return self._initial if latency is None else to_steps(latency, self.period_ms)


class LatencyModel(Protocol):
    """Latency of simulated solves: a function of episode and tick, and of the measured time."""

    measured: bool
    """Whether solves must be timed one by one."""

    def latency_ms(self, seed: int, tick: int, measured_ms: float) -> float:
        """Return the latency of the plan requested at ``tick`` of episode ``seed``."""
        ...


@dataclass(frozen=True)
class FixedLatency:
    """Always the same, and so deterministic: ``steps`` control steps are ``steps * period_ms``.

    Attributes:
        ms: milliseconds.
    """

    ms: float
    measured = False

    def __post_init__(self) -> None:
        number("latency.ms", self.ms, 0)

    def latency_ms(self, seed: int, tick: int, measured_ms: float) -> float:
        """Return the fixed latency."""
        return self.ms


@dataclass(frozen=True)
class LognormalLatency:
    """Skewed as solve times are; draw ``(seed, tick)`` is always the same.

    Attributes:
        median_ms: median.
        p95_ms: 95th percentile.
    """

    median_ms: float
    p95_ms: float
    measured = False

    def __post_init__(self) -> None:
        for name in ("median_ms", "p95_ms"):
            number(f"latency.{name}", getattr(self, name), above=0)
        if not self.median_ms <= self.p95_ms:
            raise PcmError(
                f"latency.median_ms={self.median_ms}, latency.p95_ms={self.p95_ms}: need "
                "0 < median_ms <= p95_ms"
            )

    def latency_ms(self, seed: int, tick: int, measured_ms: float) -> float:
        """Draw a latency."""
        stream = np.random.Philox(key=[seed, (LATENCY_STREAM << 40) + tick])
        spread = np.log(self.p95_ms / self.median_ms) / 1.6448536269514722
        normal = np.random.Generator(stream).standard_normal()
        return float(self.median_ms * np.exp(spread * normal))


@dataclass(frozen=True)
class TraceLatency:
    """A recorded trace; every episode starts at another place of it, given by its seed.

    Attributes:
        trace_ms: latencies in the order in which they were measured.
    """

    trace_ms: tuple[float, ...]
    measured = False

    def latency_ms(self, seed: int, tick: int, measured_ms: float) -> float:
        """Return the next latency of the trace."""
        return self.trace_ms[(seed * 7919 + tick) % len(self.trace_ms)]


@dataclass(frozen=True)
class MeasuredLatency:
    """The time that the solve took on this machine, times a factor, plus a constant.

    Attributes:
        factor: scales the measured time, as for a slower machine.
        extra_ms: added, as for a network.
    """

    factor: float = 1.0
    extra_ms: float = 0.0
    measured = True

    def __post_init__(self) -> None:
        for name in ("factor", "extra_ms"):
            number(f"latency.{name}", getattr(self, name), 0)

    def latency_ms(self, seed: int, tick: int, measured_ms: float) -> float:
        """Return the measured time, scaled."""
        return self.factor * measured_ms + self.extra_ms


def trace(values_ms: Sequence[float] | NDArray[np.float64]) -> TraceLatency:
    """Check a recorded trace.

    Raises:
        PcmError: it is empty, or holds something that is not a time.
    """
    times = np.asarray(values_ms, np.float64)
    if times.ndim != 1 or not len(times) or not np.isfinite(times).all() or times.min() < 0:
        raise PcmError("a latency trace is a list of one or more non-negative milliseconds")
    return TraceLatency(tuple(times.tolist()))
