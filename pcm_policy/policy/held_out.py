"""Held-out observations in a policy folder: what benchmarks and cards are measured on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.places import resolve
from pcm_policy.policy.tensors import load_tensors, save_tensors

_SIGHT = "sight."


def write_held_out(file: Path, observations: Tensor, sights: Mapping[str, Tensor]) -> None:
    """Write observations ``(n, To, Do)``, and of some of them the entries that were encoded."""
    raw = {f"{_SIGHT}{k}": v.contiguous() for k, v in sights.items()}
    save_tensors({"observations": observations.detach().cpu().contiguous(), **raw}, file)


def held_out_observations(path: str | Path) -> Tensor:
    """Read the ``(n, To, Do)`` raw observations that a policy folder carries for benchmarks.

    Raises:
        PcmError: the folder has none.
    """
    return read_held_out(resolve(path) / "observations.safetensors", None)[0]


def read_held_out(file: Path, config: PolicyConfig | None) -> tuple[Tensor, dict[str, Tensor]]:
    """Read observations and the images of some of them, and check that they are the policy's."""
    tensors = load_tensors(file)
    found = tensors.get("observations")
    if found is None or found.ndim != 3 or not found.is_floating_point():
        raise PcmError(f"{file} holds no (n, To, Do) array 'observations': train again")
    if config is not None and found.shape[1:] != (config.obs_steps, config.obs_dim):
        raise PcmError(
            f"{file}: observations have shape {tuple(found.shape)}, this policy takes "
            f"(n, {config.obs_steps}, {config.obs_dim}): restore it or train again"
        )
    if not bool(found.isfinite().all()):
        raise PcmError(f"{file}: observations hold NaN or infinity: restore it or train again")
    return found, {k.removeprefix(_SIGHT): v for k, v in tensors.items() if k.startswith(_SIGHT)}


def held_out_sights(path: str | Path) -> list[dict[str, Any]]:
    """Read the held-out observations with images of a policy folder, each as ``predict`` takes it.

    There are none where the policy has no cameras, or was imported.
    """
    _, sights = read_held_out(resolve(path) / "observations.safetensors", None)
    found = {name: values.numpy() for name, values in sights.items()}
    count = min(map(len, found.values()), default=0)
    return [{k: v[i] for k, v in found.items() if v[i].size} for i in range(count)]
