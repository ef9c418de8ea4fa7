"""A recorded solve is the eager solve: the same rounds, the same states."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from pcm_policy.runtime.recorded import Function, Recorded
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    PCM,
    Adaptive,
    Anderson,
    Coarse,
    Newton,
    Paradigms,
    Picard,
    Rounds,
    Sequential,
    Settle,
    Step,
    Tolerance,
)
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.loop import solve, start
from pcm_policy.solvers.newton import mean_jacobian
from tests.problems import F64, N, make_head, problem

STEPS = [
    Picard(),
    Picard(window=4),
    Anderson(),
    Anderson(memory=3, inner=Newton()),
    Newton(),
    Coarse(),
    Coarse(then=Picard()),
    PCM(),
    PCM(shares=(1.0, 0.5, 0.25), then=Newton()),
    Adaptive(),
    Paradigms(),
    Paradigms(window=4),
    Sequential(),
]
STOPS = [
    Rounds(),
    Rounds(N - 2),
    Tolerance(error=1e-1),
    Tolerance(error=1e-3),
    Tolerance(3, error=1e-6),
    Tolerance(error=0.0),
    Settle(8, level=0.05),
    Settle(8, level=0.5),
]


def counted(made: list[int]) -> Any:
    """Recordings that run the function as it is, and count themselves."""

    def record(function: Function, given: Sequence[Tensor]) -> Function:
        made.append(len(given))
        return function

    return record


@cache
def systems(name: str) -> tuple[Any, list[Tensor], list[Tensor]]:
    """``begin`` and two sets of tensors for it."""
    denoise, noise = problem(F64, batch=5, name=name)
    head = make_head("window", denoise)
    jacobian = Jacobian.of(denoise.sampler, mean_jacobian(denoise, noise, 4))

    def begin(given: Sequence[Tensor]) -> Any:
        cond, initial, *steps = given
        own = Denoiser(denoise.network, denoise.sampler, cond)
        return start(own, Noise(initial, steps[0] if steps else None), None, head, jacobian)

    first = [denoise.cond, noise.initial, *([] if noise.steps is None else [noise.steps])]
    return begin, first, [value.flip(0 if value.ndim < 4 else 1) * 0.9 for value in first]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("stop", STOPS, ids=str)
@pytest.mark.parametrize("step", STEPS, ids=str)
def test_recorded_is_eager(step: Step, stop: Rounds, sampler: str) -> None:
    if isinstance(step, Sequential) and stop.reads:
        pytest.skip("nothing ends a sequential solve early")
    begin, first, second = systems(sampler)
    made: list[int] = []
    recorded = Recorded(begin, step, stop, counted(made))
    for given in (first, second, first):
        found, want = recorded(given), solve(*begin(given), step, stop)
        assert found.rounds == want.rounds
        assert found.ended == want.ended
        for name in ("sample", "trajectory", "residuals", "bound"):
            torch.testing.assert_close(
                getattr(found, name), getattr(want, name), rtol=0, atol=1e-11, msg=name
            )
        assert torch.equal(found.certified, want.certified)
        if want.row_rounds is not None:
            assert torch.equal(found.row_rounds, want.row_rounds)
    if not stop.reads:
        assert len(made) == 1
