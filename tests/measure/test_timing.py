"""The timer: whose turn it is, what counts, when it stops. No test depends on a real clock."""

from collections.abc import Callable

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.measure.timing import time_call
from pcm_policy.runtime import timing
from pcm_policy.runtime.timing import take_turns


def test_sides_take_turns_and_the_warm_up_does_not_count() -> None:
    seen: list[tuple[str, int]] = []

    def side(name: str) -> Callable[[int], None]:
        return lambda number: seen.append((name, number))

    spent = take_turns([side("a"), side("b")], 3, warmup=2)
    assert seen == [(name, number) for number in range(5) for name in "ab"]
    assert [len(times) for times in spent] == [3, 3]
    assert all(ms >= 0 for times in spent for ms in times)


def test_a_side_that_knows_its_time_better_is_believed() -> None:
    ours, theirs = take_turns([lambda _: None, lambda number: 100.0 + number], 2, warmup=3)
    assert theirs == [103.0, 104.0]
    assert ours != theirs
    assert time_call(lambda _: 7.0, 4)["max"] < 1e6  # what a call returns is not its time


@pytest.mark.parametrize(("seconds", "least", "calls", "counted"), [(25, 1, 10, 5), (3, 4, 10, 4)])
def test_no_turn_starts_too_late_but_for_the_least(
    seconds: float, least: int, calls: int, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that goes by the calls: each takes 5 seconds, and nothing else any."""
    now = 0.0

    def call(_: int) -> None:
        nonlocal now
        now += 5

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)
    (spent,) = take_turns([call], calls, warmup=0, seconds=seconds, least=least)
    assert spent == [5000.0] * (counted + (seconds == 25))
    now = 0.0
    numbers: list[int] = []
    take_turns([lambda n: (numbers.append(n), call(n))[1]], 1, warmup=4, seconds=25)
    assert numbers == [0, 4]  # of the warm-up what begins in a tenth of the time


def test_at_least_one_call() -> None:
    with pytest.raises(PcmError, match="calls=0: at least one timed call is needed"):
        take_turns([], 0)
