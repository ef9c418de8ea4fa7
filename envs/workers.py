"""How many processes fit on a machine, and none of them outliving the one that started it."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait

GIGABYTE = 2**30


def fitting_workers(gigabytes: float = 1.0) -> int:
    """Return how many processes of a size fit: one a core, less where memory is short.

    Args:
        gigabytes: memory of one process.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    try:
        with open("/proc/meminfo") as file:
            free = next(line for line in file if line.startswith("MemAvailable"))
        most = int(int(free.split()[1]) * 1024 / (gigabytes * GIGABYTE))
    except (OSError, StopIteration, ValueError):
        most = cores
    return max(1, min(cores, most))


def side_by_side(num_envs: int | None, mode: str) -> int:
    """Return how many environments run side by side where nothing is said (None)."""
    if num_envs is not None:
        return num_envs
    return fitting_workers() if mode == "async" else 50


def end_with_parent() -> None:
    """End this process when the one that started it ends, however it does."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
