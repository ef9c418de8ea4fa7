"""``pcm-serve``: load, warm up, say where, serve until told to stop."""

import asyncio
import contextlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Mapping
from functools import partial
from importlib import import_module
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, Protocol

import torch

from pcm_policy.cli.compose import load_policy, plain
from pcm_policy.cli.settings.evaluate import ServeSettings
from pcm_policy.errors import PcmError
from pcm_policy.serving.door import Door
from pcm_policy.serving.fleet import Fleet
from pcm_policy.serving.member import packed, serve_handed
from pcm_policy.serving.options import ServeOptions
from pcm_policy.serving.planner import Planner
from pcm_policy.serving.server import PolicyServer


class Served(Protocol):
    """A server of one process, or of several."""

    options: ServeOptions

    async def run(self, ready: "asyncio.Future[int] | None" = None) -> None:
        """Serve until cancelled; ``ready`` gets the port."""

    async def drain(self) -> None:
        """Let nobody else in, and wait until the last client hangs up."""

    def described(self) -> Mapping[str, Any]:
        """Return ``name``, ``label`` and ``cost_ms``, once it is ready."""


def run(config: ServeSettings) -> None:
    """Serve a policy; SIGINT and SIGTERM end it in order, another one at once.

    With ``serve.drain_s`` the first SIGTERM lets those who are there finish.
    """
    if config.serve.processes > 1:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(_run(Fleet(partial(_start, config), config.serve)))
        _leave()
    server = _server(config)
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(_run(server))
    if server.batcher.solving:  # its thread cannot be ended, and nobody waits for it
        _leave()


def _server(config: ServeSettings) -> PolicyServer:
    policy = load_policy(config)
    planner = Planner(policy, policy.solver(plain(config.solver)))
    if planner.compiles:
        print("compiling every kind and size of solve, which takes seconds each", file=sys.stderr)
    return PolicyServer(planner, str(config.policy), config.serve)


def _leave() -> NoReturn:
    """End the process at once, without taking torch apart."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


async def _run(server: Served) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()
    task = asyncio.create_task(server.run(ready))

    draining: set[asyncio.Task[None]] = set()

    def stop(number: int) -> None:
        if task.cancelling():
            os._exit(128 + number)
        if number == signal.SIGTERM and server.options.drain_s and not draining:
            draining.add(loop.create_task(server.drain()))
            next(iter(draining)).add_done_callback(lambda _: task.cancel())
            return
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers
            loop.add_signal_handler(number, stop, number)
    task.add_done_callback(lambda _: ready.cancel())
    with contextlib.suppress(asyncio.CancelledError):
        await ready
    if not ready.cancelled():
        _say(server, ready.result())
    await task


def _say(server: Served, port: int) -> None:
    """Print what is served, and where."""
    found, options = server.described(), server.options
    shown = f"[{options.host}]" if ":" in options.host else options.host
    cost = ", ".join(f"{size}: {ms:.1f}" for size, ms in found["cost_ms"].items())
    several = f"; {options.processes} processes" if options.processes > 1 else ""
    print(f"{found['label']}; ms by batch: {cost}{several}")
    spoken = "" if options.protocol == "pcm" else f" ({options.protocol})"
    print(f"serving {found['name']}{spoken} at ws://{shown}:{port}", flush=True)


def _start(config: ServeSettings, door: socket.socket, line: socket.socket) -> BaseProcess:
    """Start one of several policy processes."""
    spawn = multiprocessing.get_context("spawn")
    process = spawn.Process(target=_member, args=(config, door, line), daemon=True)
    process.start()
    return process


def _member(config: ServeSettings, door: socket.socket, line: socket.socket) -> None:
    """Be one of several policy processes; threads are shared out where nothing says how many."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent says what follows
    for name in config.plugins:
        import_module(name)
    share = max(1, torch.get_num_threads() // config.serve.processes)
    torch.set_num_threads(config.threads or share)
    try:
        server = _server(config)
    except PcmError as error:
        line.sendall(packed(**{"is": "failed", "why": str(error)}))
        return
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(serve_handed(server, Door(fileno=door.detach()), line))
    _leave()
