"""Threads that solve side by side, while none records: a recording changes torch for all of them.

``torch.export`` replaces parts of torch while it traces, in the whole process; what another thread
computes meanwhile fails, or becomes part of the recording.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Lets any number of threads work, or one alone.

    Example:
        >>> turns = Turns()
        >>> with turns.shared(), turns.alone():  # waits until no other thread is in shared()
        ...     print("alone")
        alone
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._depth: dict[int, int] = {}  # of each thread that works
        self._waiting = 0
        self._alone: int | None = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Work beside others; wait while a thread is, or wants to be, alone."""
        me = threading.get_ident()
        with self._free:
            if me not in self._depth and self._alone != me:
                self._free.wait_for(lambda: self._alone is None and not self._waiting)
            self._depth[me] = self._depth.get(me, 0) + 1
        try:
            yield
        finally:
            with self._free:
                self._depth[me] -= 1
                if not self._depth[me]:
                    del self._depth[me]
                self._free.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other thread works, and keep them waiting until the block ends."""
        me = threading.get_ident()
        with self._free:
            if self._alone == me:
                depth, entered = 0, False
            else:
                depth, entered = self._depth.pop(me, 0), True
                self._waiting += 1
                self._free.notify_all()
                self._free.wait_for(lambda: self._alone is None and not self._depth)
                self._waiting -= 1
                self._alone = me
        try:
            yield
        finally:
            if entered:
                with self._free:
                    self._alone = None
                    if depth:
                        self._depth[me] = depth
                    self._free.notify_all()


TURNS = Turns()
"""Of this process."""
