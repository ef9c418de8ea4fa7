"""One thread that works for an event loop."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """Calls functions in one thread, one at a time; it does not keep the process alive."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.busy = False
        threading.Thread(target=self._run, name="pcm-solve", daemon=True).start()

    async def __call__(self, call: Callable[[], Result]) -> Result:
        """Call a function, and return or raise as it does."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Result] = loop.create_future()

        def tell(set_end: Callable[[Any], None], value: Any) -> None:
            def end() -> None:
                if not done.done():  # nobody waits any more
                    set_end(value)

            self.busy = False
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(end)

        def work() -> None:
            try:
                tell(done.set_result, call())
            except Exception as error:
                tell(done.set_exception, error)

        self.busy = True
        self._work.put(work)
        return await done

    def close(self) -> None:
        """End the thread after the call under way, without waiting for it."""
        self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
