"""Memory that a call takes; knows torch alone, because LeRobot's process measures with it too."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def peak_memory(run: Callable[[], Any], device: torch.device) -> float | None:
    """Return how many bytes a call needs at its peak beyond what was held before.

    CUDA: ``max_memory_allocated``, less what was allocated. CPU: the peak of the resident set,
    which Linux lets a process reset; None where it does not.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    before = _settled()
    run()
    return None if before is None else float(max(0, _status("VmHWM") - before))


def _settled() -> int | None:
    """Give freed pages back, which would hide what the call takes, and reset the peak."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")
    except (OSError, AttributeError, StopIteration):
        return None


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith(field)).split()[1])
