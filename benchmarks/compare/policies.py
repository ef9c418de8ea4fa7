"""The policies of the comparison, and what identifies a run."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcm_policy.measure.bench import hardware
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.folder import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy

UNETS = {  # name: down_dims; Push-T's sizes, random weights
    "unet-tiny": (16, 32),
    "unet-5m": (64, 128, 256),
    "unet-65m": (256, 512, 1024),
}


ROOT = Path(__file__).parents[2]


def load(name: str, device: torch.device) -> tuple[DiffusionPolicy, Tensor, str]:
    """Load a policy folder, or build one of :data:`UNETS` with random weights.

    Returns:
        The policy, ``(n, To, Do)`` raw observations, and where the weights are from: a random
        network's time is the real one's, its number of adaptive rounds is not.
    """
    if name not in UNETS:
        policy = DiffusionPolicy.from_pretrained(name, device)
        return policy, held_out_observations(name).to(device, policy.dtype), name
    torch.manual_seed(0)
    options = {"down_dims": list(UNETS[name])}
    config = PolicyConfig(20, 2, network="unet1d", network_options=options)
    policy = DiffusionPolicy(config).to(device)
    return policy, 2 * torch.rand(64, 2, 20, device=device) - 1, "random"


def commit() -> str:
    """Return the commit of the code that runs, with ``+`` where files differ from it."""
    git = ["git", "-C", str(ROOT)]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
        paths = ["pcm_policy", "benchmarks"]
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", *paths], check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed.returncode else "")


def identity(device: torch.device) -> dict[str, Any]:
    """Return what belongs into every result file."""
    module = ".".join(Path(sys.argv[0]).resolve().relative_to(ROOT).with_suffix("").parts)
    return {
        "command": " ".join(["python", "-m", module, *sys.argv[1:]]),
        "commit": commit(),
        "hardware": {k: v for k, v in hardware(device).items() if k != "mode"},  # rows have it
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    }
