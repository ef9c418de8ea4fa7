"""Two nodes on one machine: each in a network of its own, joined by a cable (Linux, root)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

ADDRESS = "10.77.0.{}"
PORT = 29511


def ip(*words: str) -> bool:
    """Run ``ip``; returns whether it may."""
    return not subprocess.run(["ip", *words], capture_output=True, check=False).returncode


@contextmanager
def networks() -> Iterator[list[str]]:
    """Make two network namespaces; yields their names, which their ends of the cable have too.

    Yields no name where namespaces cannot be made: they need ``ip`` and root.
    """
    names = [f"pcm{i}{os.getpid()}" for i in (0, 1)]
    if shutil.which("ip") is None or not ip("netns", "add", names[0]):
        yield []
        return
    try:
        done = ip("netns", "add", names[1])
        done = done and ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for number, name in enumerate(names, 1):
            done = done and ip("link", "set", name, "netns", name)
            done = done and ip(
                "-n", name, "addr", "add", f"{ADDRESS.format(number)}/24", "dev", name
            )
            done = done and ip("-n", name, "link", "set", "lo", "up")
            done = done and ip("-n", name, "link", "set", name, "up")
        yield names if done else []
    finally:
        for name in names:
            ip("netns", "del", name)


def started(name: str, rank: int, words: Sequence[str], stderr: int) -> "subprocess.Popen[str]":
    """Start one of two nodes, of one process and one thread.

    Args:
        name: its network.
        rank: its number.
        words: ``pcm_policy.cli``'s command and settings.
        stderr: where what it says goes.
    """
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1"),
            *(f"--master_addr={ADDRESS.format(1)}", f"--master_port={PORT}"),
            *("-m", "pcm_policy.cli", *words),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": name},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
    )
