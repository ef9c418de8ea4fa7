"""Digests of weights: what a head, a factor or a figure belongs to."""

import hashlib
import json
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy


def fingerprint(network: nn.Module) -> str:
    """Return a digest of a module's weights: what a head, or a measured factor, belongs to."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def whole_fingerprint(policy: "DiffusionPolicy") -> str:
    """Return a digest of all that a policy is: its config, weights of all parts, ranges."""
    config = json.dumps(policy.config.to_dict(), sort_keys=True)
    return hashlib.sha256((config + fingerprint(policy)).encode()).hexdigest()[:16]
