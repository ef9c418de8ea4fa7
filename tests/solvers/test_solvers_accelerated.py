"""Coarse-to-fine, Anderson, quasi-Newton and adaptive PCM: the same fixed point, in fewer rounds.

Tolerances as in test_solvers.py: 1e-4 in float32, 1e-9 in float64.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.errors import PcmError
from pcm_policy.heads import Head
from pcm_policy.sampling.denoise import Denoiser, PredictionType, Prefix
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import Coarse, Iterate, Picard, System
from pcm_policy.solvers.anderson import least_squares
from pcm_policy.solvers.coarse import between_nodes
from pcm_policy.solvers.deadline import Deadline
from pcm_policy.solvers.jacobian import Jacobian
from pcm_policy.solvers.newton import mean_jacobian
from tests.problems import (
    DA,
    F64,
    PREDICTIONS,
    SAMPLERS,
    B,
    N,
    T,
    affine_problem,
    distance,
    guesses,
    make_head,
    problem,
)
from tests.solving import adaptive, anderson, coarse, newton, picard, run, sequential, subspace


def jacobian(denoise: Denoiser, scale: float = 0.5) -> Jacobian:
    """An arbitrary one: the fixed point must not depend on it."""
    gen = torch.Generator().manual_seed(5)
    diagonal = scale * torch.rand(denoise.sampler.steps, T, DA, generator=gen, dtype=F64)
    return Jacobian.of(denoise.sampler, diagonal.to(denoise.cond.dtype))


def solvers(denoise: Denoiser) -> dict[str, Any]:
    return {
        "coarse": coarse,
        "coarser": partial(coarse, shares=(0.2, 0.2, 0.3, 0.5)),
        "coarse-0": partial(coarse, memory=0),
        "anderson": anderson,
        "anderson-3": partial(anderson, memory=3),
        "newton": partial(newton, jacobian=jacobian(denoise)),
        "newton-0": partial(newton, jacobian=jacobian(denoise), memory=0),
        "newton-coarse": partial(newton, jacobian=jacobian(denoise), shares=(0.25, 0.5)),
        "subspace": subspace,
    }


def prefixes(denoise: Denoiser) -> list[Prefix | None]:
    gen = torch.Generator().manual_seed(13)
    values = torch.rand(B, T, DA, generator=gen).to(denoise.cond.dtype) * 2 - 1
    known = (torch.arange(T) < 2)[None, :, None]
    return [None, Prefix(values, known), Prefix(values, known, overwrite_input=True)]


@pytest.mark.parametrize(
    "name",
    [
        *("coarse", "coarser", "coarse-0", "anderson", "anderson-3", "newton", "newton-coarse"),
        "subspace",
    ],
)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_solver_finds_the_sequential_sample(
    sampler: dict[str, Any], prediction: PredictionType, name: str
) -> None:
    denoise, noise = problem(prediction=prediction, **sampler)
    for prefix in prefixes(denoise):
        denoise = replace(denoise, prefix=prefix)
        exact = sequential(denoise, noise)
        for guess in guesses(exact, denoise)[: 2 if prefix is None else 1]:
            for stop in ({"rounds": N}, {"tolerance": 1e-5}):
                found = solvers(denoise)[name](denoise, noise, guess=guess, **stop)
                assert distance(found, exact) <= 1e-4
                assert found.rounds <= N
                assert found.certified.tolist() == [True] * B


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(
    "name", ["coarse", "anderson", "newton", "newton-0", "newton-coarse", "subspace"]
)
def test_every_solver_in_float64_clipped_and_not(name: str, clip: float | None) -> None:
    denoise, noise = problem(F64, name="ddpm")
    denoise = replace(denoise, clip=clip)
    exact = sequential(denoise, noise)
    for stop in ({"rounds": N}, {"tolerance": 1e-12}):
        assert distance(solvers(denoise)[name](denoise, noise, **stop), exact) <= 1e-9


@settings(max_examples=25)
@given(
    st.tuples(st.integers(3, 12), st.integers(0, 2**31)),
    st.booleans(),
    st.sampled_from(["coarse", "anderson", "newton", "newton-coarse", "subspace"]),
)
def test_any_strictly_triangular_system(system: tuple[int, int], one_step: bool, name: str) -> None:
    steps, seed = system
    denoise, noise, _, _ = affine_problem(steps, seed, one_step, slope=1.0)
    exact = sequential(denoise, noise)
    for stop in ({"rounds": steps}, {"tolerance": 1e-12}):
        found = solvers(denoise)[name](denoise, noise, **stop)
        assert distance(found, exact) <= 1e-8
        assert found.rounds <= steps


@pytest.mark.parametrize("name", ["coarse", "anderson", "newton", "subspace"])
def test_rows_are_independent(name: str) -> None:
    """Rows that settle in different rounds do not move each other."""
    denoise, noise = problem(F64, "v_prediction", batch=4, steps=16, name="ddim")
    denoise = replace(denoise, cond=denoise.cond * torch.logspace(-1, 1, 4, dtype=F64)[:, None])
    together = solvers(denoise)[name](denoise, noise, tolerance=0.05, safety=1.0)
    rounds = set()
    for b in range(4):
        one = replace(denoise, cond=denoise.cond[b : b + 1])
        alone = solvers(one)[name](
            one, Noise(noise.initial[b : b + 1], None), tolerance=0.05, safety=1.0
        )
        rounds.add(alone.rounds)
        assert float((alone.trajectory[:, 0] - together.trajectory[:, b]).abs().max()) < 1e-9
    assert len(rounds) > 1


def test_coarse_rounds_evaluate_few_nodes_and_settled_states_none() -> None:
    denoise, noise = problem(F64, steps=32, name="ddim")
    assert coarse(denoise, noise, rounds=4).nfe == 8 + 16 + 30 + 29
    plain = picard(denoise, noise, tolerance=1e-8)
    assert plain.nfe < 32 * plain.rounds
    assert coarse(denoise, noise, tolerance=1e-8).nfe < plain.nfe


def test_interpolation_is_linear_in_log_snr() -> None:
    denoise, _ = problem(F64, steps=12, name="ddim")
    sampler = denoise.sampler
    level = (sampler.alpha / sampler.sigma).log()
    nodes = [2, 5, 6, 11]
    found = between_nodes(sampler, torch.tensor(nodes), 2) @ (3.0 * level[nodes] + 1.0)
    torch.testing.assert_close(found, 3.0 * level[2:] + 1.0, rtol=0, atol=1e-12)
    values = torch.randn(4, dtype=F64)
    assert torch.equal(
        (between_nodes(sampler, torch.tensor(nodes), 2) @ values)[[0, 3, 4, 9]], values
    )
    outside = between_nodes(sampler, torch.tensor([5, 7]), 0) @ values[:2]
    assert torch.equal(outside[:6], values[:1].expand(6))
    assert torch.equal(outside[7:], values[1:2].expand(5))
    assert torch.equal(between_nodes(sampler, torch.tensor([7]), 3), torch.ones(9, 1, dtype=F64))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_small_systems_are_solved_as_by_the_library(count: int) -> None:
    gen = torch.Generator().manual_seed(1)
    root = torch.randn(5, 4, count, 8, generator=gen, dtype=F64)
    gram = root @ root.mT
    right = torch.randn(5, 4, count, generator=gen, dtype=F64)
    level = gram.diagonal(dim1=-2, dim2=-1).mean(dim=-1)[..., None, None]
    want = torch.linalg.solve(gram + 1e-3 * level * torch.eye(count, dtype=F64), right)
    found = least_squares(gram.permute(2, 3, 0, 1), right.permute(2, 0, 1), 1e-3)
    torch.testing.assert_close(found.permute(1, 2, 0), want, rtol=1e-9, atol=1e-9)


def test_the_mean_jacobian_of_a_linear_denoiser_is_its_slope() -> None:
    denoise, noise, _, _ = affine_problem(8, 3, one_step=True, slope=0.0)
    slope = torch.linspace(0.1, 0.8, 8, dtype=F64)
    denoise = replace(denoise, network=lambda x, t, _: slope[t][:, None, None] * x + 0.1)
    found = mean_jacobian(denoise, noise)
    # The first two states are exact in the rounds looked at: their slopes cannot be seen.
    torch.testing.assert_close(
        found[2:], slope[2:, None, None].expand_as(found[2:]), rtol=1e-3, atol=1e-3
    )
    exact = sequential(denoise, noise)
    full = Jacobian.of(denoise.sampler, slope[:, None, None].expand(8, T, DA), damping=1.0)
    one = newton(denoise, noise, jacobian=full, memory=0, rounds=1)
    assert distance(one, exact) <= 1e-12  # Newton solves a linear system in one round


def test_adaptive_switching_certifies_even_with_an_arbitrary_head() -> None:
    denoise, noise = problem(F64, name="ddpm")
    exact = sequential(denoise, noise)
    for gain in (0.0, 1.0, 30.0):
        head = make_head("window", denoise, gain=gain).to(F64)
        found = adaptive(denoise, noise, head=head, most=3, tolerance=1e-8)
        assert found.certified.all()
        assert distance(found, exact) <= 1e-8
        assert found.rounds <= N


class Given(Head):
    """A head that adds what a function says to the base."""

    adds_to_base = True

    def __init__(self, function: Callable[[Iterate, torch.Tensor | None], torch.Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(
        self, s: System, x: Iterate, share: float, base: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.function(x, base)


def test_a_head_that_knows_the_answer_is_certified_one_round_after_its_jump() -> None:
    denoise, noise = problem(F64, name="ddim", steps=24)
    exact = sequential(denoise, noise)
    solution = denoise(exact.trajectory[:-1], slice(0, 24))
    plain = picard(denoise, noise, tolerance=1e-6)
    found = adaptive(denoise, noise, head=Given(lambda *_: solution), most=3, tolerance=1e-6)
    assert found.rounds == 2 < plain.rounds
    assert found.certified.all()


def test_a_head_that_stops_helping_is_left_row_by_row() -> None:
    denoise, noise = problem(F64, name="ddim", steps=24)
    calls: list[int] = []

    def stuck(x: Iterate, base: torch.Tensor | None) -> torch.Tensor:
        calls.append(x.k)
        assert base is not None
        return torch.zeros_like(base)

    found = adaptive(denoise, noise, head=Given(stuck), most=20, tolerance=1e-6)
    plain = picard(denoise, noise, tolerance=1e-6)
    assert found.certified.all()
    assert found.rounds <= plain.rounds + 3
    assert distance(found, sequential(denoise, noise)) <= 1e-6


def test_adaptive_switching_refuses_heads_without_a_base() -> None:
    denoise, noise = problem()
    with pytest.raises(PcmError, match="changes the weights"):
        adaptive(denoise, noise, head=make_head("lora", denoise), most=1, tolerance=1e-3)


class Clock:
    """Every look at it takes ``step`` seconds."""

    def __init__(self, step: float) -> None:
        self.step, self.now = step, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_a_deadline_ends_the_solve_in_time_with_the_best_chunk_and_its_bound() -> None:
    denoise, noise = problem(F64, steps=24, name="ddim")
    exact = sequential(denoise, noise)
    bounds = []
    for ms, rounds in ((2.5, 1), (30.5, 3), (50.5, 5)):
        found = picard(denoise, noise, tolerance=1e-9, late=Deadline(ms, clock=Clock(0.01)))
        assert found.rounds == rounds  # a round of 10 ms is not begun in the last 10 ms
        assert not found.certified.any()
        error = (found.sample - exact.sample).abs().amax(dim=(1, 2))
        assert (error <= found.bound).all()
        bounds.append(float(found.bound.max()))
    assert bounds == sorted(bounds, reverse=True)
    early = picard(denoise, noise, tolerance=1e-6, late=Deadline(1e6, clock=Clock(0.01)))
    assert early.certified.all()


@pytest.mark.parametrize("overwrite_input", [False, True])
def test_a_known_prefix_is_kept_and_is_the_replacement_sampler(overwrite_input: bool) -> None:
    """Against a plain loop that overwrites the prediction (and the input) at every step."""
    denoise, noise = problem(F64, name="ddpm")
    prefix = prefixes(denoise)[1]
    assert prefix is not None
    values, sampler = prefix.values, denoise.sampler
    x = noise.initial
    for j in range(N):
        seen = x.clone()
        if overwrite_input:
            seen[:, :2] = values[:, :2]
        clean = denoise(seen[None], slice(j, j + 1))[0]
        clean[:, :2] = values[:, :2]
        assert noise.steps is not None
        x = sampler.decay[j] * x + sampler.gain[j] * clean + sampler.noise[j] * noise.steps[j]
    bound = replace(denoise, prefix=replace(prefix, overwrite_input=overwrite_input))
    for found in (sequential(bound, noise), picard(bound, noise, rounds=N)):
        assert float((found.sample - x).abs().max()) <= 1e-10
        # DDPM's last step adds noise of variance 1e-20.
        torch.testing.assert_close(found.sample[:, :2], values[:, :2], rtol=0, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("window", [1, 3, N])
def test_a_window_may_follow_coarse_rounds(window: int) -> None:
    """What the coarse rounds said of later states stays until the window gets there."""
    denoise, noise = problem(F64, name="ddim")
    step = Coarse((0.5,), Picard(window))
    found = run(step, denoise, noise, tolerance=1e-9)
    assert found.certified.all()
    assert distance(found, sequential(denoise, noise)) <= 1e-9
    first = run(step, denoise, noise, rounds=N + 1, watch=(seen := []).append)
    assert first.certified.all()
    assert not torch.equal(seen[1][-1], noise.initial * denoise.sampler.p[-1])
