"""What signals do to ``pcm-serve``: each scenario in turn, in a process of its own.

A signal that is not handled ends its process, and must not end that of the tests. Run as
``python -m tests.serving.told_to_end``, it prints the name of each scenario that held.
"""

import asyncio
import signal
from collections.abc import Iterable

from websockets.exceptions import ConnectionClosed

from pcm_policy.cli import serve
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.server import PolicyServer
from tests.serving.test_server_ends import Held, greeted

SCENARIOS: dict[str, tuple[float, list[signal.Signals], bool]] = {
    "one SIGTERM drains": (1000.0, [signal.SIGTERM], True),
    "another one ends it": (1000.0, [signal.SIGTERM, signal.SIGTERM], False),
    "SIGINT ends it": (1000.0, [signal.SIGINT], False),
    "SIGTERM without a drain": (0.0, [signal.SIGTERM], False),
}
"""How long it drains, what it is sent, and whether the robot that is there stays."""


async def play(drain_s: float, signals: Iterable[signal.Signals], drained: bool) -> None:
    """Send signals to the command's own handlers, with a robot that stays until it is let go."""
    served = PolicyServer(Held(), "mine", ServeOptions(port=0, batching=False, drain_s=drain_s))
    loop = asyncio.get_running_loop()
    port: asyncio.Future[int] = loop.create_future()
    real = served.run

    async def run(ready: "asyncio.Future[int]") -> None:
        ready.add_done_callback(lambda found: port.set_result(found.result()))
        await real(ready)

    served.run = run  # type: ignore[method-assign, assignment]
    command = asyncio.create_task(serve._run(served))
    robot = await greeted(f"ws://127.0.0.1:{await port}")
    for number in signals:
        signal.raise_signal(number)
        await asyncio.sleep(0.01)
    if drained:
        assert served.draining
        assert served.clients == 1
        await robot.close()
    else:
        try:
            await robot.recv()
        except ConnectionClosed:
            pass
        else:
            raise AssertionError("the robot was not let go")
    await asyncio.gather(command, return_exceptions=True)


if __name__ == "__main__":
    for name, scenario in SCENARIOS.items():
        asyncio.run(asyncio.wait_for(play(*scenario), 30))
        print(f"\n{name}", flush=True)
