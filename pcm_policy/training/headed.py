"""A policy with a new head: untrained, or going on from an earlier one of the same base."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.heads import HEADS
from pcm_policy.policy.config import HeadConfig
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.settings import options as checked_options


def with_head(
    base: DiffusionPolicy,
    head: Mapping[str, Any],
    sampler: Mapping[str, Any],
    seed: int,
    rounds: int = 2,
) -> DiffusionPolicy:
    """Return the policy with an untrained head, bound to its weights and to a sampler.

    Args:
        base: the trained policy; a head it has already is dropped.
        head: ``name`` and ``options`` of the new head; what they leave out, its class says, and
            ``auto`` its :meth:`~pcm_policy.heads.base.Head.settled`.
        sampler: fields of ``SamplerConfig``; None values come from the policy's own sampler.
        seed: seed of the head's initial weights.
        rounds: iterates it will be trained on.

    Raises:
        PcmError: an unknown head, option or sampler setting.
    """
    flat = {k: v for k, v in sampler.items() if k != "name"} | {"sampler": sampler.get("name")}
    chosen = base.solver({"method": "sequential"} | flat).sampler
    kind = HEADS.find(head["name"], import_it=False)
    options = kind.settled(
        checked_options(kind, head["options"], "head.options"),
        chosen.steps,
        math.prod(base.config.chunk_shape),
        base.sampler(chosen).stochastic,
    )
    own = HeadConfig(head["name"], options, chosen, fingerprint(base.network), rounds)
    config = replace(base.config, head=own)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DiffusionPolicy(config)
    policy.load_state_dict(_base_weights(base), strict=False)
    assert policy.head is not None
    policy.head.start_from(policy.network)
    return policy


def without_head(base: DiffusionPolicy, **changes: Any) -> DiffusionPolicy:
    """Return a policy with the base's weights and normalisers, without its head.

    Args:
        base: the trained policy.
        changes: fields of its config that are others.
    """
    policy = DiffusionPolicy(replace(base.config, head=None, **changes))
    policy.load_state_dict(_base_weights(base))
    return policy


def _base_weights(base: DiffusionPolicy) -> dict[str, Tensor]:
    """Return what a policy has beside its head."""
    return {k: v for k, v in base.state_dict().items() if not k.startswith("head.")}


def go_on(policy: DiffusionPolicy, earlier: DiffusionPolicy, name: str) -> str:
    """Give an untrained head those parts of an earlier one whose weights all have the same shapes.

    A head of other nodes or another width keeps the first guess of the earlier one, for example.

    Args:
        policy: with the untrained head, which is changed.
        earlier: with the head that it goes on from.
        name: of ``earlier``, for messages.

    Returns:
        A sentence that says which parts are taken, and which are new.

    Raises:
        PcmError: there is no earlier head, it is of another base, or nothing fits.
    """
    if earlier.head is None or policy.head is None:
        raise PcmError(f"init={name}: that policy has no PCM head to go on from")
    if fingerprint(earlier.network) != fingerprint(policy.network):
        raise PcmError(f"init={name}: its head belongs to another base than policy=...")
    mine, theirs = policy.head.state_dict(), earlier.head.state_dict()
    parts = {key.split(".")[0] for key, _ in policy.head.named_parameters()}
    whole = {
        part: all(
            key in theirs and theirs[key].shape == value.shape
            for key, value in mine.items()
            if key.split(".")[0] == part
        )
        for part in parts
    }
    taken, new = (sorted(part for part in parts if whole[part] is fits) for fits in (True, False))
    if not taken:
        raise PcmError(f"init={name}: no part of its head has the shapes of one here")
    fits = {key: value for key, value in theirs.items() if key.split(".")[0] in taken}
    policy.head.load_state_dict(mine | fits)
    left = f"; new: {', '.join(new)}" if new else ""
    return f"the head goes on from that of {name}: {', '.join(taken)}{left}"
