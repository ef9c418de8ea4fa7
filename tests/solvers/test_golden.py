"""Every solver, stop and guess gives what the loop gave before it became steps and stops."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import (
    Iterate,
    Paradigms,
    Picard,
    Rounds,
    Sequential,
    SolveResult,
    Tolerance,
    solve,
    start,
)
from pcm_policy.solvers.deadline import Deadline
from tests.golden.solvers import FILE, NAMES, PROBLEMS, STEPS, S, counts, hard, solves, values
from tests.problems import ATOL, F64

KEPT = np.load(FILE)
OFF = 1e-6
"""The file holds float32; the solves are in float64."""


def test_the_file_holds_these_and_is_small() -> None:
    want = {
        f"{kind}/{name}/{part}"
        for kind in PROBLEMS
        for name in NAMES
        for part in ("values", "counts")
    }
    assert set(KEPT) == want
    assert FILE.stat().st_size < 300_000


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_result_is_the_one_that_is_kept(kind: str, name: str) -> None:
    """Trajectory, residuals and bound; rounds, evaluations and what is certified, exactly."""
    for i, (s, x, step, stop) in enumerate(solves(kind, name)):
        found, said = solve(s, x, step, stop), f"{name} {i}: {step} {stop}"
        assert counts(found).tolist() == KEPT[f"{kind}/{name}/counts"][i].tolist(), said
        want = KEPT[f"{kind}/{name}/values"][i].astype(np.float64)
        np.testing.assert_allclose(values(found), want, rtol=OFF, atol=OFF, err_msg=said)


class Kept(Tolerance):
    """Evaluate certified rows with the others."""

    def look(self, x: Iterate) -> Iterate:
        return replace(super().look(x), rows=None)


@torch.no_grad()
@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("kind", PROBLEMS)
def test_certified_rows_leave_the_batch(kind: str, name: str) -> None:
    """Only the last bits change; and fewer rows are evaluated, which the counts do not show."""
    for s, x, step, stop in solves(kind, name):
        if isinstance(stop, Tolerance) and stop.error in (0.05, 1e-3) and x.cold:
            all_rows = solve(s, x, step, Kept(stop.rounds, stop.safety, stop.error))
            found = solve(s, x, step, stop)
            assert counts(all_rows).tolist() == counts(found).tolist()
            for part in ("trajectory", "bound"):
                want = getattr(all_rows, part)
                torch.testing.assert_close(getattr(found, part), want, rtol=0, atol=1e-11)


class Clock:
    """Ten milliseconds pass between two looks."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.01
        return self.now


@torch.no_grad()
@pytest.mark.parametrize(("ms", "rounds"), [(2.5, 1), (30.5, 3), (50.5, 5)])
def test_a_deadline_ends_a_solve_after_some_rounds(ms: float, rounds: int) -> None:
    denoise, noise, *_ = hard("ddpm")
    late = Deadline(ms, clock=Clock())
    found = solve(*start(denoise, noise), Picard(), Tolerance(error=1e-9), late)
    same = solve(*start(denoise, noise), Picard(), Tolerance(rounds, error=1e-9))
    assert found.rounds == rounds
    assert torch.equal(found.trajectory, same.trajectory)
    assert torch.equal(found.bound, same.bound)


def by_hand(denoise: Denoiser, noise: Noise) -> list[torch.Tensor]:
    """The sampler's states, step by step."""
    a, x = denoise.sampler, noise.initial
    states = [x]
    for j in range(S):
        x = a.decay[j] * x + a.gain[j] * denoise(x[None], slice(j, j + 1))[0]
        if noise.steps is not None:
            x = x + a.noise[j] * noise.steps[j]
        states.append(x)
    return states


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_baselines_are_the_sampler(dtype: torch.dtype, kind: str) -> None:
    """Sequential sampling, and ParaDiGMS after as many rounds as there are steps."""
    denoise, noise, *_ = hard(kind, dtype)
    exact = torch.stack(by_hand(denoise, noise))
    found: list[SolveResult] = [solve(*start(denoise, noise), Sequential(), Rounds())]
    for window, rounds in product((None, 5), (S, S + 3)):
        found.append(solve(*start(denoise, noise), Paradigms(window), Rounds(rounds)))
    for one in found:
        off = ATOL[dtype] * float(exact.abs().max())
        torch.testing.assert_close(one.trajectory, exact, rtol=0, atol=off)
