"""One function, timed by itself."""

from collections.abc import Callable
from typing import Any

import torch

from pcm_policy.measure.statistics import percentiles
from pcm_policy.runtime.timing import CPU, take_turns


def time_call(
    call: Callable[[int], Any], calls: int, device: torch.device = CPU
) -> dict[str, float]:
    """Time one function of the call's number: mean, p50, p95, p99, max in milliseconds."""

    def side(number: int) -> None:
        call(number)

    return percentiles(take_turns([side], calls, device=device)[0])
