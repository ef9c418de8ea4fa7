"""The processes, device and precision of a run, as its launcher says or as its settings do."""

import torch
from accelerate import Accelerator

from pcm_policy.checks import one_of
from pcm_policy.errors import PcmError
from pcm_policy.training.replicas import Replicas

PRECISIONS = ("no", "bf16", "fp16")


def launched(device: torch.device, precision: str | None = None) -> Accelerator:
    """Return accelerate's view of this run.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``no``, ``bf16`` or ``fp16``; None: as the launcher says, else ``no``.

    Raises:
        PcmError: another precision, one that the device does not have, or a launcher that asks
            for gradients to be accumulated, which a setting does here.
    """
    if precision is not None:
        one_of("precision", precision, PRECISIONS)
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    except (ValueError, RuntimeError) as error:
        raise PcmError(f"precision={precision or 'of the launcher'}: {error}") from error
    found = accelerator.mixed_precision
    if found not in PRECISIONS:
        raise PcmError(f"precision={found} of the launcher: give precision=no, bf16 or fp16")
    if found == "fp16" and accelerator.device.type == "cpu":
        raise PcmError("precision=fp16 needs a GPU: use precision=bf16 or precision=no")
    if accelerator.gradient_accumulation_steps != 1:
        raise PcmError(
            f"the launcher asks for {accelerator.gradient_accumulation_steps} steps of gradient "
            "accumulation: unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS and set train.accumulate"
        )
    return accelerator


def weights_kind(fsdp: bool, accelerator: Accelerator) -> type[Replicas]:
    """Return how the processes of a run hold its weights: whole, or a share each.

    Raises:
        PcmError: shares are asked for where there is one process, with fp16, whose gradients are
            scaled, or with a torch that cannot do it.
    """
    if not fsdp:
        return Replicas
    if accelerator.num_processes == 1:
        raise PcmError("fsdp=true shares weights among processes: start several with torchrun")
    if accelerator.mixed_precision == "fp16":
        raise PcmError("fsdp=true with precision=fp16: use precision=bf16 or precision=no")
    try:
        from pcm_policy.training.fsdp import FullySharded
    except ImportError as error:
        raise PcmError(
            f"fsdp=true needs torch 2.6 or newer: this is {torch.__version__}"
        ) from error
    return FullySharded
