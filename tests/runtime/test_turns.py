"""Any number of threads work side by side, or one alone."""

import threading
from concurrent.futures import ThreadPoolExecutor

from pcm_policy.runtime.turns import Turns


def test_alone_is_alone_and_nobody_is_left_waiting() -> None:
    """Threads that work, and that want to be alone from within their work, in any order."""
    turns, lock = Turns(), threading.Lock()
    inside, wrong = 0, 0

    def robot(number: int) -> int:
        nonlocal inside, wrong
        for k in range(60):
            with turns.shared(), turns.shared():
                with lock:
                    inside += 1
                if (number + k) % 7 == 0:
                    with lock:
                        inside -= 1
                    with turns.alone():
                        with turns.shared(), turns.alone():
                            wrong += inside
                        wrong += inside
                    with lock:
                        inside += 1
                with lock:
                    inside -= 1
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(robot, range(8), timeout=60)) == list(range(8))
    assert wrong == 0
    assert not turns._depth


def test_several_work_at_once() -> None:
    turns, meeting = Turns(), threading.Barrier(3)

    def robot(_: int) -> None:
        with turns.shared():
            meeting.wait(timeout=30)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(robot, range(3)))


def test_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    for block in (turns.shared, turns.alone):
        try:
            with block():
                raise RuntimeError
        except RuntimeError:
            pass
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: turns.alone().__enter__()).result(timeout=10) is None
