"""One row under a tolerance has the rounds and the bits that it has under the full rules."""

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch

from pcm_policy.solvers import PCM, Anderson, Paradigms, Picard, Step, Tolerance, solve, start
from pcm_policy.solvers.adaptive import Adaptive
from pcm_policy.solvers.alone import Alone, alone
from tests.golden.solvers import FULL, PROBLEMS, STEPS, hard
from tests.problems import make_head

WINDOWS: dict[str, tuple[Step, str | None]] = {
    **{f"window-{size}": (Picard(size), None) for size in (1, 5)},
    "window-anderson": (Anderson(inner=Picard(3)), None),
    "window-pcm": (PCM(FULL, Picard(5)), "window"),
    "paradigms": (Paradigms(), None),
    "paradigms-window": (Paradigms(5), None),
    "adaptive": (Adaptive(2), "window"),
}
STOPS = [
    *(Tolerance(None, safety, error) for error, safety in ((0.5, 1.0), (0.05, 4.0), (1e-3, 1.0))),
    Tolerance(None, 4.0, 1e-6),
    Tolerance(None, 4.0, 0.0),
    Tolerance(20, error=0.02),
]


@dataclass(frozen=True)
class Full(Tolerance):
    """The rules for any batch, which another class than the tolerance's own keeps."""


@pytest.mark.parametrize("name", [*STEPS, *WINDOWS])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_one_row_alone(kind: str, name: str) -> None:
    denoise, noise, jacobian, guesses = hard(kind)
    step, head = (STEPS | WINDOWS)[name]
    own: Any = None if head is None else make_head(head, denoise, gain=0.3)
    for i, stop in enumerate(STOPS):
        row, guess = (0, 4)[i % 2], guesses[i % len(guesses)]
        one = replace(denoise, cond=denoise.cond[row : row + 1])
        if guess is not None:
            guess = guess[..., row : row + 1, :, :]
        s, x = start(one, noise.row(row), guess, own, jacobian)
        assert isinstance(alone(stop, x), Alone)
        full = Full(stop.rounds, stop.safety, stop.error)
        assert alone(full, x) is full
        found, want = solve(s, x, step, stop), solve(s, x, step, full)
        for part in fields(want):
            a, b = (getattr(side, part.name) for side in (found, want))
            same = a.equal(b) if isinstance(b, torch.Tensor) else a == b
            assert same, (part.name, row, stop)


def test_several_rows_are_not_alone() -> None:
    denoise, noise, _, _ = hard(next(iter(PROBLEMS)))
    _, x = start(denoise, noise)
    stop = Tolerance(error=0.1)
    assert alone(stop, x) is stop
