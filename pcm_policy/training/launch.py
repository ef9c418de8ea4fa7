"""The processes, device and precision of a run, as its launcher says or as its settings do."""

import torch
from accelerate import Accelerator

from pcm_policy.checks import one_of
from pcm_policy.errors import PcmError

PRECISIONS = ("no", "bf16", "fp16")


def launched(device: torch.device, precision: str | None = None) -> Accelerator:
    """Return accelerate's view of this run.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``no``, ``bf16`` or ``fp16``; None: as the launcher says, else ``no``.

    Raises:
        PcmError: another precision, one that the device does not have, or a launcher that asks
            for gradients to be accumulated, which training does not do.
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
            "accumulation: unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS and set train.batch"
        )
    return accelerator
