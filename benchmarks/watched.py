"""A process whose memory is watched while it runs, and which may be killed on the way.

Two figures, in MB, of ``/proc/PID/status``, read 50 times a second. ``anon`` is the most memory
that was the process's own (``RssAnon``): files that it maps are no part of it. ``peak`` is its
largest resident set (``VmHWM``), in which pages of mapped files count that the kernel takes back
when it wants. (``ru_maxrss`` would begin at what the process that started it held.)
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HEAD = ["command", "anon, MB, of a tenth", "of the whole", "peak, MB, of a tenth", "of the whole"]
PERIOD = 0.02
"""Seconds between two looks."""


def command(*words: str) -> list[str]:
    """Return what Python is given to run one of our commands: ``data``, ``train``, ..."""
    return ["-m", "pcm_policy.cli", *words]


def watched(words: Sequence[str], kill: Callable[[], bool] | None = None) -> dict[str, float]:
    """Run Python; return its memory, ``anon_mb`` and ``peak_mb``.

    Args:
        words: of its command line.
        kill: says at every look whether to kill it now, as a power cut would (``SIGKILL``).

    Raises:
        SystemExit: it failed, or ended before it was to be killed.
    """
    child = subprocess.Popen(
        [sys.executable, *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    own, peak, killed = 0, 0, False
    while child.poll() is None:
        text = _status(child.pid)
        own, peak = max(own, _kilobytes(text, "RssAnon")), max(peak, _kilobytes(text, "VmHWM"))
        if kill is not None and not killed and kill():
            child.kill()
            killed = True
        time.sleep(PERIOD)
    if child.returncode and not killed:
        raise SystemExit(f"{' '.join(words)} failed: see above")
    if kill is not None and not killed:
        raise SystemExit(f"{' '.join(words)} ended before it was to be killed")
    return {"anon_mb": own / 1e3, "peak_mb": peak / 1e3}


def later(true: Callable[[], bool], seconds: float) -> Callable[[], bool]:
    """Return what says whether something was true so long ago."""
    since: list[float] = []

    def asked() -> bool:
        if not since and true():
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] >= seconds

    return asked


def lines(report: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a table of what was run on a ``tenth`` and on the ``whole``."""
    small, large = report["tenth"]["rows"], report["whole"]["rows"]
    kinds = ("anon_mb", "peak_mb")
    return [
        [name, *(f"{rows[name][kind]:.0f}" for kind in kinds for rows in (small, large))]
        for name in large
    ]


def _status(pid: int) -> str:
    """Return what the kernel says of a process; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def _kilobytes(status: str, name: str) -> int:
    return int(found[1]) if (found := re.search(rf"^{name}:\s+(\d+)", status, re.M)) else 0
