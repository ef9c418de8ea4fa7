"""A grid of small solves whose results are kept in ``solvers.npz``, beside this file.

The results are those of the loop that there was before solvers became steps and stops. That loop
and ``tests/oracle/golden.py``, which wrote the file, are in the commit that added it; the present
loop was equal to it bit for bit. Everything is in float64, so that another processor's rounding
(1e-12 here) changes no number of rounds: no residual lies within 1e-6 of its threshold, relatively.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    PCM,
    Adaptive,
    Anderson,
    Coarse,
    Iterate,
    Newton,
    Paradigms,
    Picard,
    Rounds,
    Settle,
    SolveResult,
    Step,
    Stop,
    System,
    Tolerance,
    start,
)
from pcm_policy.solvers.jacobian import Jacobian
from tests.problems import DA, F64, T, make_head, problem

FILE = Path(__file__).with_suffix(".npz")
S, ROWS = 16, 5
PROBLEMS: dict[str, dict[str, Any]] = {
    "ddpm": {"name": "ddpm"},
    "ddim": {"prediction": "v_prediction", "name": "ddim", "eta": 0.5, "rederive_epsilon": False},
}
FULL, RAMP, MIXED = (1.0, 1.0), (1.0, 0.7, 0.3), (1.0, 0.0, 0.5)
STEPS: dict[str, tuple[Step, str | None]] = {
    "plain": (Picard(), None),
    "anderson": (Anderson(), None),
    "anderson-3": (Anderson(3), None),
    "coarse-0": (Coarse(then=Picard()), None),
    "coarse": (Coarse(), None),
    "newton-0": (Newton(), None),
    "newton": (Anderson(inner=Newton()), None),
    "newton-coarse": (Coarse(then=Anderson(inner=Newton())), None),
    "head-newton": (PCM(FULL, Newton()), "window"),
    "head": (PCM(FULL, Picard()), "window"),
    "ramp": (PCM(RAMP, Picard()), "window"),
    "mixed": (PCM(MIXED, Picard()), "window"),
    "lora-mixed": (PCM(MIXED, Picard()), "lora"),
    "copy-ramp": (PCM(RAMP, Picard()), "copy"),
}
"""Steps, and the heads that they use."""
STOPS: list[Stop] = [
    *(Rounds(rounds) for rounds in (1, 3, S)),
    *(Tolerance(None, f, e) for e, f in ((0.5, 1.0), (0.05, 4.0), (1e-3, 1.0), (1e-6, 4.0))),
    Tolerance(4, error=0.02),
    *(Settle(S, level=level) for level in (1e-6, 0.003, 0.03, 0.3, 10.0)),
]
WINDOWS = (1, 3, 5, 16, 40)
WINDOW_STOPS: list[Stop] = [Rounds(S + 2), Tolerance(error=0.05), Tolerance(error=1e-4)]
NAMES = [*STEPS, *(f"window-{size}" for size in WINDOWS), "adaptive", "paradigms"]
Solve = tuple[System, Iterate, Step, Stop]


@cache
def hard(kind: str, dtype: torch.dtype = F64) -> tuple[Denoiser, Noise, Jacobian, list[Any]]:
    """Five rows of very different difficulty, a Jacobian, and guesses: none, chunks, all states."""
    denoise, noise = problem(dtype, batch=ROWS, steps=S, **PROBLEMS[kind])
    scale = torch.logspace(-1, 1, ROWS, dtype=dtype)[:, None]
    denoise = replace(denoise, cond=denoise.cond * scale)
    gen = torch.Generator().manual_seed(5)
    diagonal = 0.5 * torch.rand(S, T, DA, generator=gen, dtype=F64)
    chunk = torch.randn(ROWS, T, DA, generator=gen).to(dtype)
    some = chunk.index_fill(0, torch.tensor([2]), torch.nan)
    states = torch.randn(S, ROWS, T, DA, generator=gen).to(dtype)
    jacobian = Jacobian.of(denoise.sampler, diagonal.to(dtype))
    return denoise, noise, jacobian, [None, some, states]


def solves(kind: str, name: str) -> Iterator[Solve]:
    """Yield the solves of one problem and one solver, from every guess to every stop."""
    denoise, noise, jacobian, guesses = hard(kind)
    window: Any = make_head("window", denoise, gain=0.3)
    if name == "paradigms":
        for size, rounds in product((None, 5), (S, S + 3)):
            yield *start(denoise, noise), Paradigms(size), Rounds(rounds)
        for size in (None, 5):  # alone, because the former one had one tolerance for a batch
            one = replace(denoise, cond=denoise.cond[2:3])
            yield *start(one, noise.row(2)), Paradigms(size), Tolerance(None, 1.0, 0.05)
    elif name == "adaptive":
        for rounds, own, error in product((1, 3), (None, jacobian), (0.05, 1e-4)):
            inner = Anderson(inner=Picard() if own is None else Newton())
            s, x = start(denoise, noise, None, window, own)
            yield s, x, Adaptive(rounds, inner=inner), Tolerance(error=error)
    elif name.startswith("window-"):
        inner = Picard(int(name.removeprefix("window-")))
        steps = [(inner, None), (Anderson(inner=inner), None), (PCM(FULL, inner), window)]
        for (step, head), guess, stop in product(steps, guesses, WINDOW_STOPS):
            yield *start(denoise, noise, guess, head), step, stop
    else:
        step, kind_of_head = STEPS[name]
        head = None if kind_of_head is None else make_head(kind_of_head, denoise, gain=0.3)
        for guess, stop in product(guesses, STOPS):
            yield *start(denoise, noise, guess, head, jacobian), step, stop


def values(found: SolveResult) -> NDArray[np.float64]:
    """Return the trajectory seen from 8 random sides, and of every row residuals and bound."""
    gen = torch.Generator().manual_seed(11)
    flat, rows = found.trajectory.flatten(), found.bound.shape[0]
    sides = torch.randn(8, flat.numel(), generator=gen, dtype=F64) @ flat
    live = torch.ones_like(found.residuals, dtype=torch.bool)
    if found.row_rounds is not None:
        live = torch.arange(found.rounds)[:, None] < found.row_rounds
    weights = 1 + torch.arange(found.rounds, dtype=F64)[:, None]
    residuals = (weights * found.residuals.where(live, 0.0)).sum(dim=0)
    padding = [torch.zeros(ROWS - rows, dtype=F64)]
    parts: list[Tensor] = [sides, residuals, *padding, found.bound, *padding]
    return torch.cat(parts).numpy()


def counts(found: SolveResult) -> NDArray[np.int16]:
    """Return rounds, evaluations, and of every row whether it is certified and its rounds."""
    rows = found.bound.shape[0]
    taken = torch.full((rows,), -1) if found.row_rounds is None else found.row_rounds
    padding = [-2] * (ROWS - rows)
    numbers = [*found.certified.tolist(), *padding, *taken.tolist(), *padding]
    return np.array([found.rounds, found.nfe, *numbers], np.int16)
