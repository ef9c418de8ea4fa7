"""The loop of steps and stops against the one loop that there was before, kept in tests/oracle.

Everything that a result says is the same, and bit for bit. Only where rows that are certified leave
the batch do the others' last bits change, as they do with every batch size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
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
    Sequential,
    Settle,
    SolveResult,
    Step,
    Stop,
    Tolerance,
    solve,
    start,
)
from pcm_policy.solvers.deadline import Deadline
from pcm_policy.solvers.jacobian import Jacobian
from tests import oracle
from tests.oracle.adapters import as_predictor, on_base
from tests.problems import DA, F64, T, make_head, problem

S, ROWS = 16, 5
Old = Callable[..., SolveResult]


@dataclass(frozen=True)
class Kept(Tolerance):
    """Evaluate certified rows with the others, as before."""

    def look(self, x: Iterate) -> Iterate:
        return replace(super().look(x), rows=None)


def same(old: SolveResult, new: SolveResult, off: float = 0.0) -> None:
    """Compare all that results say: residuals where a row is still solved."""
    assert (old.rounds, old.nfe) == (new.rounds, new.nfe)
    assert torch.equal(old.certified, new.certified)
    live = torch.ones_like(old.residuals, dtype=torch.bool)
    if old.row_rounds is not None:
        assert new.row_rounds is not None
        assert torch.equal(old.row_rounds, new.row_rounds)
        live = torch.arange(old.rounds)[:, None] < old.row_rounds
    for a, b in (
        (old.trajectory, new.trajectory),
        (old.residuals.where(live, 0.0), new.residuals.where(live, 0.0)),
        (old.bound, new.bound),
    ):
        torch.testing.assert_close(b, a, rtol=0, atol=off)


def hard(
    dtype: torch.dtype, prediction: Any = "epsilon", **sampler: Any
) -> tuple[Denoiser, Noise, Jacobian, list[Tensor | None]]:
    """Five rows of very different difficulty, a Jacobian, and guesses: none, chunks, all states."""
    denoise, noise = problem(dtype, prediction, batch=ROWS, steps=S, **sampler)
    scale = torch.logspace(-1, 1, ROWS, dtype=dtype)[:, None]
    denoise = replace(denoise, cond=denoise.cond * scale)
    gen = torch.Generator().manual_seed(5)
    diagonal = 0.5 * torch.rand(S, T, DA, generator=gen, dtype=F64)
    chunk = torch.randn(ROWS, T, DA, generator=gen).to(dtype)
    some = chunk.index_fill(0, torch.tensor([2]), torch.nan)
    states = torch.randn(S, ROWS, T, DA, generator=gen).to(dtype)
    jacobian = Jacobian.of(denoise.sampler, diagonal.to(dtype))
    return denoise, noise, jacobian, [None, some, states]


Problem = tuple[Denoiser, Noise, Jacobian, list[Tensor | None]]
PROBLEMS = [
    pytest.param((torch.float32, "epsilon", {"name": "ddpm"}), id="ddpm"),
    pytest.param((F64, "v_prediction", {"name": "ddim", "eta": 0.5, "rederive_epsilon": False})),
]


@pytest.fixture(params=PROBLEMS, scope="module")
def hard_one(request: pytest.FixtureRequest) -> Problem:
    dtype, prediction, sampler = request.param
    return hard(dtype, prediction, **sampler)


def pair(name: str, denoise: Denoiser, jacobian: Jacobian) -> tuple[Old, Step, Any]:
    """The same solver of then and of now, and its head."""
    plain: dict[str, tuple[Old, Step]] = {
        "plain": (oracle.picard, Picard()),
        "anderson": (oracle.anderson, Anderson()),
        "anderson-3": (partial(oracle.anderson, memory=3), Anderson(3)),
        "coarse-0": (partial(oracle.coarse, memory=0), Coarse(then=Picard())),
        "coarse": (oracle.coarse, Coarse()),
        "newton-0": (partial(oracle.newton, jacobian=jacobian, memory=0), Newton()),
        "newton": (partial(oracle.newton, jacobian=jacobian), Anderson(inner=Newton())),
        "newton-coarse": (
            partial(oracle.newton, jacobian=jacobian, shares=(0.25, 0.5)),
            Coarse(then=Anderson(inner=Newton())),
        ),
    }
    if name in plain:
        return *plain[name], None
    kind, shares, then = HEADED[name]
    head: Any = make_head(kind, denoise, gain=0.3)
    old = partial(oracle.picard, head=as_predictor(head), strengths=shares)
    if then == Newton():
        old = partial(old, correct=oracle.QuasiNewton(jacobian, 0))
    return old, PCM(shares, then), head


FULL, RAMP, MIXED = (1.0, 1.0), (1.0, 0.7, 0.3), (1.0, 0.0, 0.5)
HEADED: dict[str, tuple[str, tuple[float, ...], Step]] = {
    "head-newton": ("window", FULL, Newton()),
    "head": ("window", FULL, Picard()),
    "ramp": ("window", RAMP, Picard()),
    "mixed": ("window", MIXED, Picard()),
    "lora-mixed": ("lora", MIXED, Picard()),
    "copy-ramp": ("copy", RAMP, Picard()),
}
NAMES = ["plain", "anderson", "anderson-3", "coarse-0", "coarse", "newton-0", "newton"]
NAMES += ["newton-coarse", *HEADED]

STOPS: list[tuple[dict[str, Any], Stop]] = [
    *(({"rounds": r}, Rounds(r)) for r in (1, 3, S)),
    *(
        ({"tolerance": e, "safety": f}, Kept(None, f, e))
        for e, f in ((0.5, 1.0), (0.05, 4.0), (1e-3, 1.0), (1e-6, 4.0))
    ),
    ({"tolerance": 0.02, "rounds": 4}, Kept(4, error=0.02)),
    *(({"rounds": S, "settle": v}, Settle(S, level=v)) for v in (1e-6, 0.003, 0.03, 0.3, 10.0)),
]


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_every_solver_and_stop(hard_one: Problem, name: str) -> None:
    denoise, noise, jacobian, guesses = hard_one
    old, step, head = pair(name, denoise, jacobian)
    for guess, (words, stop) in product(guesses, STOPS):
        s, x = start(denoise, noise, guess, head, jacobian)
        same(old(denoise, noise, guess=guess, **words), solve(s, x, step, stop))


@torch.no_grad()
@pytest.mark.parametrize("size", [1, 3, 5, 16, 40])
def test_every_window(hard_one: Problem, size: int) -> None:
    denoise, noise, _, guesses = hard_one
    head: Any = make_head("window", denoise, gain=0.3)
    headed = partial(oracle.picard, head=as_predictor(head), strengths=FULL)
    pairs: list[tuple[Old, Step, Any]] = [
        (oracle.picard, Picard(size), None),
        (oracle.anderson, Anderson(inner=Picard(size)), None),
        (headed, PCM(FULL, Picard(size)), head),
    ]
    stops: list[tuple[dict[str, Any], Stop]] = [({"rounds": S + 2}, Rounds(S + 2))]
    stops += [({"tolerance": e}, Kept(error=e)) for e in (0.05, 1e-4)]
    for (old, step, own), guess, (words, stop) in product(pairs, guesses, stops):
        s, x = start(denoise, noise, guess, own)
        same(old(denoise, noise, guess=guess, window=size, **words), solve(s, x, step, stop))


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 3])
def test_adaptive(hard_one: Problem, most: int) -> None:
    denoise, noise, jacobian, _ = hard_one
    head: Any = make_head("window", denoise, gain=0.3)
    for own, error in product((None, jacobian), (0.05, 1e-4)):
        given = {"head": on_base(head), "most": most, "jacobian": own}
        old = oracle.adaptive(denoise, noise, tolerance=error, **given)
        inner = Anderson(inner=Picard() if own is None else Newton())
        s, x = start(denoise, noise, None, head, own)
        same(old, solve(s, x, Adaptive(most, inner=inner), Kept(error=error)))


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_certified_rows_leave_the_batch(hard_one: Problem, name: str) -> None:
    """Only the last bits change; and fewer rows are evaluated, which the counts do not show."""
    denoise, noise, jacobian, _ = hard_one
    _, step, head = pair(name, denoise, jacobian)
    off = 1e-11 if noise.initial.dtype == F64 else 1e-5
    for error in (0.05, 1e-3):
        s, x = start(denoise, noise, None, head, jacobian)
        kept = solve(s, x, step, Kept(error=error))
        same(kept, solve(s, x, step, Tolerance(error=error)), off)


class Clock:
    """Ten milliseconds pass between two looks."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@torch.no_grad()
@pytest.mark.parametrize("ms", [2.5, 30.5, 50.5])
def test_a_deadline(ms: float) -> None:
    denoise, noise, *_ = hard(F64)
    old = oracle.picard(denoise, noise, tolerance=1e-9, stop=Deadline(ms, clock=Clock()))
    late = Deadline(ms, clock=Clock())
    same(old, solve(*start(denoise, noise), Picard(), Kept(error=1e-9), late))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sampler", [{"name": "ddpm"}, {"name": "ddim"}])
def test_the_baselines(dtype: torch.dtype, sampler: dict[str, Any]) -> None:
    """ParaDiGMS summed in another order; sequential sampling is one round of all steps."""
    denoise, noise, *_ = hard(dtype, **sampler)
    same(oracle.sequential(denoise, noise), solve(*start(denoise, noise), Sequential(), Rounds()))
    off = 1e-12 if dtype == F64 else 1e-5
    for window, rounds in product((None, 5), (S, S + 3)):
        old = oracle.paradigms(denoise, noise, rounds=rounds, window=window)
        new = solve(*start(denoise, noise), Paradigms(window), Rounds(rounds))
        assert (old.rounds, old.nfe) == (new.rounds, new.nfe)
        assert torch.equal(old.certified, new.certified)
        torch.testing.assert_close(new.trajectory, old.trajectory, rtol=0, atol=off)
    for window in (None, 5):
        one = replace(denoise, cond=denoise.cond[2:3])
        alone = noise.row(2)
        old = oracle.paradigms(one, alone, tolerance=0.05, window=window)
        new = solve(*start(one, alone), Paradigms(window), Tolerance(None, 1.0, 0.05))
        assert (old.rounds, old.nfe) == (new.rounds, new.nfe)
        torch.testing.assert_close(new.trajectory, old.trajectory, rtol=0, atol=off)
    assert math.isfinite(float(new.bound.max()))
