"""One timer: sides that take turns call by call, so that a slow moment meets all of them alike."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from pcm_policy.errors import PcmError
from pcm_policy.solvers.deadline import synchronize

Side = Callable[[int], float | None]
"""Makes the call of a number; returns its milliseconds where it knows them better, else None."""

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""Passes on the items and shows progress, as a bar does; the second argument names the work."""

CPU = torch.device("cpu")
WARMUP = 5
"""Calls of every side that are made first and not counted."""


def no_progress(items: Sequence[Any], _: str) -> Iterable[Any]:
    """Show nothing."""
    return items


def take_turns(
    sides: Sequence[Side],
    calls: int,
    *,
    device: torch.device = CPU,
    warmup: int = WARMUP,
    seconds: float = math.inf,
    least: int = 1,
    progress: Progress = no_progress,
) -> list[list[float]]:
    """Time several sides that take turns, one call of each after the other.

    Args:
        sides: what is timed; each is called with 0, 1, 2 ..., the warm-up's calls first. The
            device is synchronised before and after a call. A side that returns a number was timed
            elsewhere (in another process), and that number counts.
        calls: timed calls a side.
        device: where the sides compute.
        warmup: calls a side that come first and are not counted.
        seconds: no turn starts after this long, nor a warm-up's after a tenth of it.
        least: timed calls a side has whatever the time; the first of them is cold if no warm-up
            fitted in.
        progress: shows how far it has come.

    Returns:
        Milliseconds of every timed call, a list a side.

    Raises:
        PcmError: no call was asked for.
    """
    if calls < 1:
        raise PcmError(f"calls={calls}: at least one timed call is needed")
    spent: list[list[float]] = [[] for _ in sides]
    begin = time.perf_counter()
    for number in progress(range(warmup + calls), "timing"):
        passed, counted = time.perf_counter() - begin, number >= warmup
        if counted and number - warmup >= least and passed > seconds:
            break
        if not counted and passed > seconds / 10:
            continue
        for times, side in zip(spent, sides, strict=True):
            synchronize(device)
            start = time.perf_counter()
            own = side(number)
            synchronize(device)
            if counted:
                times.append((time.perf_counter() - start) * 1e3 if own is None else own)
    return spent
