"""``pcm-serve``: load, warm up, say where, serve until told to stop."""

import asyncio
import contextlib
import signal

from pcm_policy.cli.compose import load_policy, plain
from pcm_policy.cli.settings.evaluate import ServeSettings
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer


def run(config: ServeSettings) -> None:
    """Serve the policy that a config names; SIGINT and SIGTERM end it in order."""
    policy = load_policy(config)
    planner = Planner(policy, policy.solver(plain(config.solver)))
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(PolicyServer(planner, str(config.policy), config.serve)))


async def _run(server: PolicyServer) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()
    task = asyncio.create_task(server.run(ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            loop.add_signal_handler(number, task.cancel)
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
