"""``pcm-serve``: load, warm up, say where, serve until told to stop."""

import asyncio
import contextlib
import os
import signal
import sys

from pcm_policy.cli.compose import load_policy, plain
from pcm_policy.cli.settings.evaluate import ServeSettings
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer


def run(config: ServeSettings) -> None:
    """Serve a policy; SIGINT and SIGTERM end it in order, a second one at once."""
    policy = load_policy(config)
    planner = Planner(policy, policy.solver(plain(config.solver)))
    if planner.compiles:
        print("compiling every kind and size of solve, which takes seconds each", file=sys.stderr)
    server = PolicyServer(planner, str(config.policy), config.serve)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(server))
    if server.batcher.solving:  # its thread cannot be ended, and nobody waits for it
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


async def _run(server: PolicyServer) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()
    task = asyncio.create_task(server.run(ready))

    def stop(number: int) -> None:
        if task.cancelling():
            os._exit(128 + number)
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            loop.add_signal_handler(number, stop, number)
    task.add_done_callback(lambda _: ready.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await ready
    if not ready.cancelled():
        host = server.options.host
        shown = f"[{host}]" if ":" in host else host
        cost = ", ".join(f"{n}: {ms:.1f}" for n, ms in server.cost_ms.items())
        print(f"{server.planner.solver.label}; ms by batch: {cost}")
        print(f"serving {server.name} at ws://{shown}:{ready.result()}", flush=True)
    await task
