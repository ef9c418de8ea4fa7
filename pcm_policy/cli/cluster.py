"""A Ray cluster that runs tasks of a few episodes each.

Ray repeats a task whose process or machine has died. The driver alone writes what comes back, so
that no file system is shared, and the same command goes on after the driver itself has died.
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from pcm_policy.cli.settings.evaluate import RaySettings
from pcm_policy.errors import PcmError
from pcm_policy.rollout.shards import difference

Unit = TypeVar("Unit")
CONNECT_S = 5.0
"""How long a cluster may take to answer; Ray itself waits for minutes."""


@contextlib.contextmanager
def connected(ray: Any, settings: RaySettings, threads: int) -> Iterator[None]:
    """Connect to a cluster, or start one in this machine alone; disconnect at the end.

    Raises:
        PcmError: nothing answers at the address, or no machine has so many CPUs.
    """
    address = settings.address or "local"
    quiet = {"log_to_driver": False, "logging_level": "error"}
    if address == "local":
        quiet["include_dashboard"] = False
    elif address != "auto":
        _knock(address)
    try:
        ray.init(address=address, **quiet)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())[:200]
        raise PcmError(f"ray.address={address}: Ray does not start ({text})") from error
    try:
        most = max((node["Resources"].get("CPU", 0) for node in ray.nodes()), default=0)
        if most < threads:
            raise PcmError(f"threads={threads}: no machine of the cluster has more than {most:g}")
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Check that something listens at an address.

    Raises:
        PcmError: it is none, or nothing answers.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise PcmError(f"ray.address={address}: use HOST:PORT, or auto for this machine's cluster")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise PcmError(
            f"ray.address={address}: no Ray cluster answers there ({error}); `ray status` on a "
            "machine of the cluster says its address"
        ) from error


def spread(
    ray: Any,
    call: Callable[[Any, Unit], dict[str, Any]],
    given: Any,
    units: Iterator[Unit],
    settings: RaySettings,
    threads: int,
    kept: str,
) -> Iterator[tuple[Unit, dict[str, Any]]]:
    """Run a task for every unit in all processes of a cluster.

    Args:
        ray: the module, connected.
        call: the task, of ``given`` and a unit.
        given: sent to every machine once.
        units: taken when there is room for another task.
        settings: how often a task is repeated.
        threads: CPUs of a task.
        kept: where what has come back is, for messages.

    Yields:
        Every unit, when it is done, and what the task returned.

    Raises:
        PcmError: a task failed, or its process died more often than ``ray.retries``.
    """
    task = ray.remote(num_cpus=threads, max_retries=settings.retries)(call)
    task = task.options(scheduling_strategy="SPREAD")
    sent, running = ray.put(given), dict[Any, Unit]()
    while True:
        room = 2 * int(ray.cluster_resources().get("CPU", 1) // threads) + 1 - len(running)
        for unit in islice(units, max(room, 0 if running else 1)):
            running[task.remote(sent, unit)] = unit
        if not running:
            return
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        unit = running.pop(done)
        yield unit, _returned(ray, done, str(unit), kept)


def _returned(ray: Any, done: Any, unit: str, kept: str) -> dict[str, Any]:
    """Return what a task returned.

    Raises:
        PcmError: it failed, or its process died too often.
    """
    goes_on = f"the finished episodes are in {kept}: the same command goes on"
    try:
        found: dict[str, Any] = ray.get(done)
        return found
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        text = str(cause) if isinstance(cause, PcmError) else f"{type(cause).__name__}: {cause}"
        raise PcmError(f"{unit}: {' '.join(text.split())}; {goes_on}") from error
    except ray.exceptions.RayError as error:
        text = " ".join(str(error).split())[:200]
        raise PcmError(f"{unit} was lost after every retry ({text}); {goes_on}") from error


def check_same(here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    """Check that what a task's episodes depend on is what they would have depended on here.

    Raises:
        PcmError: something differs, which is named.
    """
    apart = difference(here, there)
    if apart is not None:
        raise PcmError(
            f"this machine has {apart} as one of the cluster has: install the same versions "
            "everywhere"
        )


def absolute(policy: str) -> str:
    """Return a policy's folder from the root, for processes that begin elsewhere."""
    return str(Path(policy).resolve()) if Path(policy).exists() else policy


def prepare(plugins: tuple[str, ...], threads: int | None) -> None:
    """Set up a process of the cluster as the driver is: its plugins, and threads of a task."""
    for name in plugins:
        import_module(name)
    torch.set_num_threads(threads or 1)
