"""Copies of demonstrations under a symmetry of their task, checked before and after."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig

Map = Callable[[Any, Any], Any]


def load_symmetry(name: str, config: PolicyConfig) -> Map:
    """Import ``module:function`` and check that it is a map of what a policy observes and does.

    Args:
        name: where the function is. If it was marked by :func:`pcm_policy.fields.maps`, the fields
            it names are compared with the policy's.
        config: names the fields.

    Raises:
        PcmError: it cannot be imported, is no function, or maps other fields.
    """
    where = f"dataset.symmetry={name}"
    module, _, attribute = name.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises when it is imported
        raise PcmError(f"{where}: give module:function ({error!r})") from error
    if not callable(found):
        raise PcmError(f"{where} is no function: give module:function, or null for no copy")
    fields = getattr(found, "maps_fields", None)
    own = tuple(config.obs_fields), config.action_field
    if fields is not None and fields != own:
        raise PcmError(
            f"{where} maps {_listed(*fields)}, the policy has {_listed(*own)}: "
            "dataset.symmetry=null trains without a copy"
        )
    return found  # type: ignore[no-any-return]


def reflect(name: str, obs: Tensor, action: Tensor, config: PolicyConfig) -> tuple[Tensor, Tensor]:
    """Return the copy of all rows, ``(steps, Do)`` and ``(steps, Da)`` float32.

    Args:
        name: ``module:function``; it maps two numpy arrays and returns two of the same shapes.
        obs: ``(steps, Do)`` raw rows.
        action: ``(steps, Da)`` raw rows.
        config: whose fields they are.

    Raises:
        PcmError: the function does not fit the rows.
    """
    function, where = load_symmetry(name, config), f"dataset.symmetry={name}"
    try:
        seen, done = function(obs.numpy().copy(), action.numpy().copy())
        first, second = (torch.from_numpy(np.array(rows, np.float32)) for rows in (seen, done))
    except PcmError as error:
        raise PcmError(f"{where}: {error}") from error
    except Exception as error:  # whatever a function raises that was made for other rows
        raise PcmError(
            f"{where} does not map observations {tuple(obs.shape)} and actions "
            f"{tuple(action.shape)} ({error!r}): dataset.symmetry=null trains without a copy"
        ) from error
    for what, rows, copy in (("observations", obs, first), ("actions", action, second)):
        if copy.shape != rows.shape or not bool(copy.isfinite().all()):
            raise PcmError(
                f"{where} maps {what} of shape {tuple(rows.shape)} to {tuple(copy.shape)}"
                + ("" if copy.shape != rows.shape else ", not all of them finite")
                + ": dataset.symmetry=null trains without a copy"
            )
    return first, second


def _listed(obs_fields: tuple[str, ...], action_field: str) -> str:
    return f"observations [{', '.join(obs_fields)}] and actions {action_field}"
