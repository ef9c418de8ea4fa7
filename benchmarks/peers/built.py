"""What a peer's step makes of a sampler: made once, for all solves."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.solvers.step import Step

Made = TypeVar("Made")


class Built(Generic[Made]):
    """Keeps what was made for a step and a sampler, until the step has another sampler."""

    def __init__(self) -> None:
        self._kept: dict[Step, tuple[AffineSampler, Made]] = {}

    def __call__(self, step: Step, sampler: AffineSampler, make: Callable[[], Made]) -> Made:
        """Return what ``make`` returns, which is called outside inference mode."""
        kept = self._kept.get(step)
        if kept is None or kept[0] is not sampler:
            with torch.inference_mode(False), torch.no_grad():
                kept = self._kept[step] = sampler, make()
        return kept[1]
