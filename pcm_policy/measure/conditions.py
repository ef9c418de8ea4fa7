"""What a measurement depends on, as every result file says it: nothing here is a constant."""

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime

COMPUTING = (
    "pcm_policy", "torch", "numpy", "gymnasium", "gym-pusht", "pymunk", "mujoco", "robosuite",
    "robomimic", "metaworld",
)  # fmt: skip
"""Packages that an episode's numbers come from."""
ROOT = Path(__file__).parents[2]


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the device, its cores, the threads that torch uses and torch's version."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(x.split(":")[1].strip() for x in file if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def command_line() -> str:
    """Return the command of this process as it was typed, without the folders of programs."""
    words = list(sys.orig_argv)
    if sys.argv[0] in words:
        return shlex.join([Path(sys.argv[0]).name, *words[words.index(sys.argv[0]) + 1 :]])
    if "-m" in words:
        return shlex.join(["python", *words[words.index("-m") :]])
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def commit() -> str:
    """Return the commit of the code that runs, with ``+`` where files differ from it.

    An installed package has none: its version stands there.
    """
    git = ["git", "-C", str(ROOT)]
    try:
        if not (ROOT / ".git").exists():
            return f"pcm_policy {metadata.version('pcm_policy')}"
        found = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "diff", "--quiet", "HEAD", "--", "*.py", "*.yaml"], check=False
        )
    except (OSError, subprocess.CalledProcessError, metadata.PackageNotFoundError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.returncode else "")


def runtime(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return how a policy's solves are executed: mode, engine, threads, the network's type."""
    chosen = policy.execute if isinstance(policy.execute, Runtime) else None
    chosen = chosen or Runtime(policy, RuntimeConfig())
    config = chosen.config
    own = str(policy.dtype).removeprefix("torch.")
    precision = own if config.precision == "float32" else config.precision
    return {
        "mode": config.mode,
        "precision": precision,
        "tf32": config.tf32,
    } | chosen.facts


def conditions(policy: DiffusionPolicy) -> dict[str, Any]:
    """Return what belongs into every file of results about a policy."""
    return made_by() | {
        "weights": weights(policy),
        "runtime": runtime(policy),
        "hardware": hardware(policy.device),
    }


def versions(*more: str) -> dict[str, str]:
    """Return the versions of what episodes are computed with, as far as it is installed.

    Args:
        *more: further packages.
    """
    found = {}
    for name in (*COMPUTING, *more):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def made_by() -> dict[str, str]:
    """Return the command and the code that it ran."""
    return {"command": command_line(), "commit": commit()}


def weights(policy: DiffusionPolicy) -> dict[str, str]:
    """Return digests of the weights: of the network, and of the head where there is one."""
    found = {"network": fingerprint(policy.network)}
    return found if policy.head is None else found | {"head": fingerprint(policy.head)}


def said(report: Mapping[str, Any]) -> str:
    """Return a report's device, threads, mode and precision in words, for tables and pictures."""
    machine, executed = report["hardware"], report["runtime"]
    count = executed["threads"]
    threads = f"{count} thread" + ("s" if count != 1 else "")
    tf32 = " with TF32" if executed["tf32"] else ""
    return f"{machine['device']}, {threads}, {executed['mode']}, {executed['precision']}{tf32}"
