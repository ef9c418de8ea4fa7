"""Files of weights: safetensors, in 16 bits where none of the weights loses by it."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcm_policy.errors import PcmError


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        PcmError: the file is missing or damaged.
    """
    if not path.is_file():
        raise PcmError(f"{path} does not exist: name a policy folder written by pcm-train")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise PcmError(f"{path} is damaged ({error}): restore it or train again") from error


def save_tensors(
    tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file.

    Args:
        tensors: by name.
        path: of the file.
        metadata: texts that the file's head keeps beside them.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        raise OSError(str(error)) from error


@torch.no_grad()
def round_to_half(module: nn.Module) -> None:
    """Round weights to 16 bits in place; they stay float32, and are stored in half the room.

    Raises:
        PcmError: a weight is too large for 16 bits.
    """
    for name, value in module.state_dict().items():
        if value.dtype == torch.float32:
            rounded = value.half().float()
            if not rounded.isfinite().all():
                raise PcmError(f"{name} does not fit 16 bits: leave weights=float32")
            value.copy_(rounded)


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors as they are stored: weights in 16 bits where none of them loses by it."""
    wide = {k: v for k, v in tensors.items() if v.dtype == torch.float32 and "normalizer" not in k}
    if all(torch.equal(v.half().float(), v) for v in wide.values()):
        return {**tensors, **{k: v.half() for k, v in wide.items()}}
    return dict(tensors)


def check_tensors(file: Path, have: Mapping[str, Tensor], want: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a policy's file with those that its config describes.

    Args:
        file: for messages.
        have: what it holds.
        want: names, shapes and types; see :func:`~pcm_policy.policy.layout.layout`.

    Raises:
        PcmError: an entry is missing, of another shape or type, or one too many.
    """
    missing = sorted(set(want) - set(have))
    if missing and missing[0].startswith("head."):
        raise PcmError(
            f"{file} lacks {missing[0]} and {len(missing) - 1} more of its head, which an earlier "
            "version may have distilled: run pcm-distill on its base again"
        )
    if missing:
        kind = "its normaliser" if "normalizer" in missing[0] else "an entry"
        raise PcmError(
            f"{file} lacks {kind} ({missing[0]} and {len(missing) - 1} more): restore it or train "
            "again; a policy never runs without its normaliser"
        )
    extra = sorted(set(have) - set(want))
    if extra:
        raise PcmError(f"{file} has an entry {extra[0]} that config.json does not account for")
    for name, tensor in want.items():
        half = have[name].dtype == torch.float16 and tensor.dtype == torch.float32
        if have[name].shape != tensor.shape or (have[name].dtype != tensor.dtype and not half):
            raise PcmError(
                f"{file}: {name} is {have[name].dtype} {tuple(have[name].shape)}, config.json says "
                f"{tensor.dtype} {tuple(tensor.shape)}"
            )
