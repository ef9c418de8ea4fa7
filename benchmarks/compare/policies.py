"""The policies of the comparison, and what identifies a run."""

import os
from typing import Any

import torch
from torch import Tensor

from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy

UNETS = {  # name: down_dims; Push-T's sizes, random weights
    "unet-tiny": (16, 32),
    "unet-5m": (64, 128, 256),
    "unet-65m": (256, 512, 1024),
}


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
    options = {"down_dims": list(UNETS[name]), "step_embed_dim": 256}
    config = PolicyConfig(20, 2, network="unet1d", network_options=options)
    policy = DiffusionPolicy(config).to(device)
    return policy, 2 * torch.rand(64, 2, 20, device=device) - 1, "random"


def identity(device: torch.device) -> dict[str, Any]:
    """Return what belongs into every result file."""
    return {
        **made_by(),
        "hardware": hardware(device),
        "load_before": os.getloadavg()[0],
        "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    }
