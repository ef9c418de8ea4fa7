"""Small policies with arbitrary weights, for tests that need any policy."""

from typing import Any

import torch
from torch import nn

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.policy.config import HeadConfig
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.sampling.samplers import SamplerConfig

OBS_DIM, ACTION_DIM, HORIZON, STEPS = 3, 2, 8, 6
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 16, "depth": 1, "step_embed_dim": 8},
    "unet1d": {"down_dims": [8, 16], "kernel_size": 3, "step_embed_dim": 8},
    "transformer": {"n_layer": 1, "n_head": 2, "n_emb": 8},
    "dit": {"depth": 1, "heads": 2, "width": 8, "step_embed_dim": 8},
}
PLAIN_HEAD: dict[str, Any] = {"nodes": None, "newton": False, "guess_width": 0}
"""Of a window head that is the network alone: it sees all states, corrects plain rounds."""
HEADS: dict[str, dict[str, Any]] = {
    "window": {"width": 12, "depth": 1, "cond_width": 8, **PLAIN_HEAD},
    "lora": {"rank": 2},
    "copy": {},
}


def randomize(module: nn.Module, seed: int, scale: float = 0.1) -> None:
    """Move all weights a little: output layers start at zero."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=gen).to(p))


def small_policy(
    network: str = "mlp",
    head: str | None = None,
    *,
    head_options: dict[str, Any] | None = None,
    sampler: SamplerConfig | None = None,
    seed: int = 0,
    **config: Any,
) -> DiffusionPolicy:
    """Build a policy of 3 observed numbers and 2 actions that predicts 8 steps.

    Args:
        network: its network, small.
        head: name of its PCM head, None for none.
        head_options: the head's own arguments; None for those of ``HEADS``.
        sampler: of the policy and of its head; None for DDIM in 6 steps.
        seed: of all weights.
        config: further fields of its config, and others than these.
    """
    torch.manual_seed(seed)
    sampler = sampler or SamplerConfig("ddim", STEPS)
    values: dict[str, Any] = {"obs_dim": OBS_DIM, "action_dim": ACTION_DIM, "horizon": HORIZON}
    values |= {"action_steps": 4, "network": network, "network_options": NETWORKS[network]}
    values |= {"sampler": sampler, **config}
    policy = DiffusionPolicy(PolicyConfig(**values))
    randomize(policy.network, seed)
    if head is not None:
        options = HEADS[head] if head_options is None else head_options
        chosen = HeadConfig(head, options, sampler, fingerprint(policy.network), rounds=2)
        made = DiffusionPolicy(PolicyConfig(**values, head=chosen))
        made.load_state_dict(policy.state_dict(), strict=False)
        policy = made
        assert policy.head is not None
        randomize(policy.head, seed + 1, 0.02)
    for normalizer in (policy.obs_normalizer, policy.action_normalizer):
        normalizer.low.fill_(-2.0)
        normalizer.high.fill_(2.0)
    return policy
