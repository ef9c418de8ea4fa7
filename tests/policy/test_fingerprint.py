"""What a head belongs to: the digest of a network changes with every weight, its name and place."""

import torch
from torch import nn

from pcm_policy.policy.fingerprint import fingerprint


def net(*names: str, seed: int = 0) -> nn.ModuleDict:
    torch.manual_seed(seed)
    return nn.ModuleDict({name: nn.Linear(2, 2) for name in names})


def test_it_depends_on_values_and_names() -> None:
    one = fingerprint(net("a", "b"))
    assert one == fingerprint(net("a", "b"))
    assert one != fingerprint(net("a", "c"))
    assert one != fingerprint(net("a", "b", seed=1))
    changed = net("a", "b")
    with torch.no_grad():
        changed["b"].bias[1] += 1e-6
    assert one != fingerprint(changed)
    assert len(one) == 16
