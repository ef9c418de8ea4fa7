"""A server in this process, and what its clients show it."""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pcm_policy.control import PlanRequest
from pcm_policy.control.frames import read_frame
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer
from tests.seeing import glance, make


@contextmanager
def serving(planner: Planner | None = None, **options: Any) -> Iterator[tuple[str, PolicyServer]]:
    """Serve a small policy with two cameras; its address and the server."""
    given = ServeOptions(**{"port": 0, "batching": False} | options)
    running = PolicyServer(planner or Planner(make()), "seeing", given)
    loop = asyncio.new_event_loop()
    ready = loop.create_future()
    task = loop.create_task(running.run(ready))
    port = loop.run_until_complete(ready)
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"ws://127.0.0.1:{port}", running
    finally:
        task.add_done_callback(lambda _: loop.stop())
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)


def planned(planner: Planner, seeds: Sequence[int], seed: int, tick: int) -> Any:
    """Return the planner's own actions for glances, oldest first."""
    seen = tuple(read_frame(glance(s), planner.spec) for s in seeds)
    obs = np.stack([frame.state for frame in seen])
    none = np.zeros((0, planner.spec.action_dim), np.float32)
    return planner.plan(PlanRequest(0, seed, tick, 0.0, obs, none, frames=seen)).actions
