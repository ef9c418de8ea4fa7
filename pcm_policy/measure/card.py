"""The README of a policy folder."""

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pcm_policy.measure.tables import markdown
from pcm_policy.policy.policy import DiffusionPolicy


def card(
    policy: DiffusionPolicy,
    data: str,
    command: str,
    training: Mapping[str, Any],
    made: Mapping[str, str] = MappingProxyType({}),
    measured: str = "",
) -> str:
    """Return the README of a policy folder: how it was made and what it does.

    Args:
        policy: the policy.
        data: what it was trained on.
        command: name of the command; its words are taken from ``sys.argv``.
        training: settings of the run.
        made: further rows of the table, such as the time it took.
        measured: Markdown of what was measured on it.
    """
    head = policy.config.head
    rows = [[k, str(v)] for k, v in training.items()]
    rows += [[k, v] for k, v in made.items()]
    kind = "base and PCM head" if head is not None else "base"
    if policy.config.sampler.name == "consistency":
        kind = "consistency model"
    words = " ".join([command, *sys.argv[1:]])
    network = sum(p.numel() for p in policy.network.parameters())
    extra = ""
    if head is not None:
        assert policy.head is not None
        extra = (
            f"PCM head: `{head.name}`, {sum(p.numel() for p in policy.head.parameters()):,} "
            f"weights, for {head.sampler.label} ({head.sampler.spacing}), on base `{head.base}`.\n"
        )
    return (
        "---\nlibrary_name: pcm_policy\ntags: [robotics, diffusion-policy, picard]\n---\n"
        f"# Diffusion policy for {policy.config.task} ({kind})\n\n"
        f"Data: {data}.\n\nCommand: `{words}`\n\n"
        f"Network: `{policy.config.network}`, {network:,} weights, "
        f"{policy.config.schedule.train_steps} denoising steps, {policy.config.prediction}.\n"
        f"{extra}\n{markdown(['setting', 'value'], rows)}\n"
        + (f"\n## Exactness\n\n{measured}" if measured else "")
    )
