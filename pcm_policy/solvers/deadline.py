"""A deadline of a solve on a device; :mod:`pcm_policy.control.deadline` has its rule."""

import torch

from pcm_policy.control.deadline import Deadline, Stop

__all__ = ["Deadline", "Stop", "synchronize"]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
