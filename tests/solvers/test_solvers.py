"""Every solver against the sequential one, and the sequential one against a dense linear solve.

Tolerances: two batch shapes of one float32 network call differ by about 1e-7 in their outputs; the
solves below amplify that to at most 5e-6 (measured), and 1e-4 is allowed. In float64 it is 1e-10.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcm_policy.errors import PcmError
from pcm_policy.heads import LoraHead, WindowHead, build_head
from pcm_policy.networks.unet1d import ConditionalUnet1d
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers import SolveResult
from pcm_policy.solvers.pcm import ramp
from pcm_policy.solvers.system import combine, forcing
from tests.builders import PLAIN_HEAD
from tests.problems import (
    ATOL,
    DA,
    F64,
    PREDICTIONS,
    SAMPLERS,
    B,
    C,
    N,
    T,
    affine_problem,
    distance,
    guesses,
    make_head,
    mlp,
    problem,
    randomize,
)
from tests.solving import call, paradigms, picard, sequential

# --- the fixed point


@pytest.mark.parametrize("window", [None, N, 5, 1])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picard_is_the_sequential_sampler(
    sampler: dict[str, Any], prediction: PredictionType, window: int | None
) -> None:
    denoise, noise = problem(prediction=prediction, **sampler)
    exact = sequential(denoise, noise)
    assert exact.sample.std() > 0.05
    for guess in guesses(exact, denoise):
        for stop in ({"rounds": N}, {"tolerance": 1e-5}):
            found = picard(denoise, noise, window=window, guess=guess, **stop)  # type: ignore[arg-type]
            assert distance(found, exact) <= 1e-4
            assert torch.equal(found.sample, found.trajectory[-1])
            assert found.rounds <= N
            assert found.certified.tolist() == [True] * B


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picard_is_the_sequential_sampler_in_float64(
    sampler: dict[str, Any], window: int | None
) -> None:
    denoise, noise = problem(F64, **sampler)
    exact = sequential(denoise, noise)
    for guess in guesses(exact, denoise):
        found = picard(denoise, noise, tolerance=1e-11, window=window, guess=guess)
        assert found.sample.dtype == F64
        assert distance(found, exact) <= 1e-10
        assert found.rounds <= N
        assert found.certified.all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_paradigms_has_the_same_fixed_point(sampler: dict[str, Any]) -> None:
    for prediction in PREDICTIONS:
        denoise, noise = problem(prediction=prediction, **sampler)
        exact = sequential(denoise, noise)
        for window in (None, 5, 1):
            for stop in ({"rounds": N}, {"tolerance": 1e-5}):
                found = paradigms(denoise, noise, window=window, **stop)  # type: ignore[arg-type]
                assert distance(found, exact) <= 1e-4
                assert found.rounds <= N
                assert found.certified.all()


@pytest.mark.parametrize("window", [None, 5, 2])
@pytest.mark.parametrize("tolerance", [1e-3, 0.1, 0.5])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_paradigms_follows_the_published_algorithm(
    name: str, tolerance: float, window: int | None
) -> None:
    """Algorithm 1 of Shih et al. 2023 as a loop over states, with one tolerance for all of them."""
    denoise, noise = problem(F64, name=name, batch=1)
    sampler = denoise.sampler
    x = [noise.initial.clone() for _ in range(N + 1)]
    t = rounds = 0
    while t < N:
        stop = min(t + (window or N), N)
        drift = []
        for i in range(t, stop):
            clean = denoise(x[i][None], slice(i, i + 1))[0]
            stepped = sampler.decay[i] * x[i] + sampler.gain[i] * clean
            if noise.steps is not None:
                stepped = stepped + sampler.noise[i] * noise.steps[i]
            drift.append(stepped - x[i])
        old, moving = list(x), x[t]
        for i in range(t, stop):
            moving = moving + drift[i - t]
            x[i + 1] = moving
        for i in range(stop + 1, N + 1):
            x[i] = moving
        errors = [float((x[i] - old[i]).abs().max()) for i in range(t + 1, stop + 1)]
        # the window starts at the state before the first one that still moved; the first is exact
        moved = [i for i, error in enumerate(errors) if i > 0 and error > tolerance]
        t += moved[0] if moved else len(errors)
        rounds += 1
    found = paradigms(denoise, noise, tolerance=tolerance, window=window)
    torch.testing.assert_close(found.trajectory, torch.stack(x), rtol=0, atol=1e-9)
    assert found.rounds == rounds


def test_long_ddpm_settles_in_far_fewer_rounds_than_steps() -> None:
    denoise, noise = problem(steps=100, name="ddpm")
    exact = sequential(denoise, noise)
    found = picard(denoise, noise, tolerance=1e-4)
    sliding = picard(denoise, noise, tolerance=1e-4, window=40)
    base = paradigms(denoise, noise, tolerance=1e-4)
    for result in (found, sliding):
        assert float((result.sample - exact.sample).abs().max()) <= 1e-4
        assert result.certified.all()
    assert float((base.sample - exact.sample).abs().max()) <= 1e-3
    assert found.rounds < 50
    assert sliding.nfe < found.nfe
    assert found.rounds < base.rounds <= 100


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_r_rounds_make_the_first_r_states_exact(
    sampler: dict[str, Any], dtype: torch.dtype
) -> None:
    denoise, noise = problem(dtype, **sampler)
    exact = sequential(denoise, noise).trajectory
    for solver in (picard, paradigms):
        for r in range(1, N + 1):
            found = solver(denoise, noise, rounds=r).trajectory
            assert torch.equal(found[0], noise.initial)
            torch.testing.assert_close(found[: r + 1], exact[: r + 1], rtol=0, atol=ATOL[dtype])
            if r <= 3:  # and there is something left to find
                assert float((found[r + 2 :] - exact[r + 2 :]).abs().max()) > 0.01


def test_exact_states_are_not_touched_by_later_rounds() -> None:
    denoise, noise = problem(name="ddpm")
    seen: list[Tensor] = []
    picard(denoise, noise, rounds=N, watch=lambda states: seen.append(states.clone()))
    assert len(seen) == N
    for r in range(1, N):
        assert torch.equal(seen[r][:r], seen[r - 1][:r])
        assert not torch.equal(seen[r][r + 1 :], seen[r - 1][r + 1 :]) or r > 6


def test_a_short_window_leaves_states_behind_alone_and_still_moves_those_ahead() -> None:
    """States past the window repeat its newest prediction, which beats a chunk of zeros."""
    denoise, noise = problem(name="ddpm")
    first: list[Tensor] = []
    picard(denoise, noise, rounds=N, window=2, watch=lambda s: first.append(s.clone()))
    predictions = denoise(
        (forcing(denoise.sampler, noise))[:2],  # the zero guess's states
        slice(0, 2),
    )
    held = predictions[[0] + [1] * (N - 1)]
    expected = forcing(denoise.sampler, noise) + combine(denoise.sampler.M, held)
    torch.testing.assert_close(first[0], expected, rtol=0, atol=1e-5)


# --- random systems


systems = st.tuples(st.integers(1, 12), st.integers(0, 2**31))


@settings(max_examples=40)
@given(systems, st.booleans(), st.integers(1, 14), st.booleans())
def test_picard_solves_any_strictly_triangular_system(
    system: tuple[int, int], one_step: bool, window: int, guessed: bool
) -> None:
    steps, seed = system
    denoise, noise, _, _ = affine_problem(steps, seed, one_step, slope=1.0)
    exact = sequential(denoise, noise)
    guess = 3 * torch.randn(noise.initial.shape, dtype=F64) if guessed else None
    fixed = picard(denoise, noise, rounds=steps, window=window, guess=guess)
    assert distance(fixed, exact) <= 1e-10
    loose = picard(denoise, noise, tolerance=1e-12, window=window, guess=guess)
    assert distance(loose, exact) <= 1e-9
    assert loose.rounds <= steps
    assert fixed.certified.all()
    assert loose.certified.all()


@settings(max_examples=25)
@given(systems, st.integers(1, 14))
def test_paradigms_solves_any_one_step_sampler(system: tuple[int, int], window: int) -> None:
    steps, seed = system
    denoise, noise, _, _ = affine_problem(steps, seed, one_step=True, slope=1.0)
    exact = sequential(denoise, noise)
    assert distance(paradigms(denoise, noise, rounds=steps, window=window), exact) <= 1e-9
    assert distance(paradigms(denoise, noise, tolerance=1e-12, window=window), exact) <= 1e-9


@settings(max_examples=25)
@given(systems, st.booleans())
def test_sequential_is_the_dense_solution_of_a_linear_system(
    system: tuple[int, int], one_step: bool
) -> None:
    """With ``D(x) = c x + b_j`` the trajectory is ``(I - c M E)^-1 (F + M b)``."""
    steps, seed = system
    denoise, noise, _, bias = affine_problem(steps, seed, one_step, slope=1.0)
    sampler = denoise.sampler
    denoise = denoise.with_network(lambda x, t, _: 0.7 * x + bias[t][:, None])
    matrix = torch.eye(steps + 1, dtype=F64)
    matrix[:, :-1] -= 0.7 * sampler.M
    assert noise.steps is not None
    right = torch.einsum("i,btd->ibtd", sampler.p, noise.initial)
    right = right + torch.einsum("ij,jbtd->ibtd", sampler.S, noise.steps)
    right = right + (sampler.M @ bias)[:, None, None]
    expected = torch.linalg.solve(matrix, right.flatten(1)).view_as(right)
    found = sequential(denoise, noise)
    torch.testing.assert_close(found.trajectory, expected, rtol=1e-9, atol=1e-9)
    assert found.certified.all()
    assert torch.equal(found.residuals, torch.zeros(steps, 2, dtype=F64))


# --- heads and model switching

HEADS = ["window", "lora", "copy"]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("window", [None, 4])
def test_a_head_at_strength_zero_is_the_base_model_to_the_last_bit(
    kind: str, window: int | None
) -> None:
    denoise, noise = problem(name="ddpm")
    head = make_head(kind, denoise)
    predict = head
    for r in (N - 3, N):
        plain = picard(denoise, noise, rounds=r, window=window)
        zero = picard(denoise, noise, rounds=r, window=window, head=predict, shares=(0.0,) * r)
        assert torch.equal(plain.trajectory, zero.trajectory)
        assert torch.equal(plain.residuals, zero.residuals)
    states = picard(denoise, noise, rounds=1).trajectory[:-1]  # where there is a residual
    base = denoise(states, slice(0, N))
    forced = forcing(denoise.sampler, noise)[:-1]
    assert torch.equal(call(head, denoise, forced, states, 0, 0.0), base)
    assert float((call(head, denoise, forced, states, 0, 1.0) - base).abs().max()) > 0.1


def test_a_window_head_stays_finite_whatever_its_weights() -> None:
    """Its correction is a product of two maps of the states: round by round it could explode."""
    denoise, noise = problem(name="ddpm")
    head = make_head("window", denoise)
    with torch.no_grad():
        for p in head.parameters():
            p.mul_(30.0)
    found = picard(denoise, noise, rounds=N, head=head, shares=(1.0,) * N)
    assert found.trajectory.isfinite().all()
    assert found.residuals[-1].max() > 0.1  # it has not come to rest either


def test_a_lora_head_at_strength_zero_is_a_convolutional_base_to_the_last_bit() -> None:
    net = ConditionalUnet1d(DA, T, C, down_dims=(8, 16), step_embed_dim=16)
    denoise, noise = problem(network=randomize(net, 0.8, 0))
    head = make_head("lora", denoise)
    states = picard(denoise, noise, rounds=2).trajectory[:-1]
    base = denoise(states, slice(0, N))
    forced = forcing(denoise.sampler, noise)[:-1]
    assert torch.equal(call(head, denoise, forced, states, 0, 0.0), base)
    assert not torch.equal(call(head, denoise, forced, states, 0, 1.0), base)


@pytest.mark.parametrize("kind", HEADS)
def test_an_untrained_head_changes_nothing(kind: str) -> None:
    denoise, noise = problem()
    assert isinstance(denoise.network, nn.Module)
    own = PLAIN_HEAD if kind == "window" else {}
    head = build_head(kind, denoise.network, N, DA, T, C, own)
    plain = picard(denoise, noise, rounds=3)
    headed = picard(denoise, noise, rounds=3, head=head, shares=(1.0,) * 3)
    torch.testing.assert_close(headed.sample, plain.sample, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("strengths", [(1.0,), (1.0, 1.0, 1.0), ramp(4, 1.0), (1.0, 0.0, 0.5)])
@pytest.mark.parametrize("window", [None, 5, 1])
def test_base_rounds_after_any_head_find_the_sequential_sample(
    kind: str, strengths: tuple[float, ...], window: int | None
) -> None:
    denoise, noise = problem(name="ddpm")
    exact = sequential(denoise, noise)
    head = make_head(kind, denoise, gain=3.0)
    rounds = len(strengths) + N
    for stop in ({"tolerance": 1e-5}, {"rounds": rounds}):
        found = picard(
            denoise,
            noise,
            head=head,
            shares=strengths,
            window=window,
            **stop,  # type: ignore[arg-type]
        )
        assert len(strengths) < found.rounds <= rounds
        assert distance(found, exact) <= 1e-4
        assert found.certified.all()


@pytest.mark.parametrize("kind", HEADS)
def test_without_switching_a_head_finds_its_own_fixed_point(kind: str) -> None:
    denoise, noise = problem(name="ddpm")
    exact = sequential(denoise, noise)
    head = make_head(kind, denoise)
    rounds = 2 * N
    found = picard(denoise, noise, rounds=rounds, tolerance=1e-5, head=head, shares=(1.0,) * rounds)
    assert found.rounds == rounds
    assert float((found.sample - exact.sample).abs().max()) > 0.05
    assert not found.certified.any()


@pytest.mark.parametrize("strengths", [(1.0,), (1.0, 1e-12), (0.5, 0.25)])
def test_nothing_is_certified_right_after_a_pcm_round(strengths: tuple[float, ...]) -> None:
    """Not even when any change would do, or when the head is the base model itself."""
    denoise, noise = problem()
    assert isinstance(denoise.network, nn.Module)
    solution = sequential(denoise, noise).trajectory[:-1]
    guess = denoise(solution, slice(0, N))
    rounds = len(strengths)
    for head in (make_head("window", denoise), WindowHead(denoise.network, N, DA, T, C)):
        for start in (None, guess):
            found = picard(
                denoise,
                noise,
                rounds=rounds,
                tolerance=1e9,
                guess=start,
                head=head,
                shares=strengths,
            )
            assert found.rounds == rounds
            assert not found.certified.any()
    base = picard(denoise, noise, rounds=1, tolerance=1e9)
    assert base.certified.all()


def test_a_tolerance_is_only_certified_when_a_base_round_met_it() -> None:
    denoise, noise = problem()
    short = picard(denoise, noise, rounds=3, tolerance=1e-6)
    assert not short.certified.any()
    assert not picard(denoise, noise, rounds=3).certified.any()
    unseen = picard(denoise, noise, rounds=2, tolerance=1e9, window=3)  # six states of ten
    assert not unseen.certified.any()
    cautious = picard(denoise, noise, tolerance=1e-2, safety=1e4)
    hasty = picard(denoise, noise, tolerance=1e-2, safety=1.0)
    assert hasty.rounds < cautious.rounds


def test_window_head_adds_its_share_to_one_base_call() -> None:
    denoise, noise = problem()
    head = make_head("window", denoise)
    calls = Counter(denoise.network)
    counted = denoise.with_network(calls)
    states = picard(denoise, noise, rounds=2).trajectory[:-1]
    base = denoise(states, slice(0, N))
    forced = forcing(denoise.sampler, noise)[:-1]
    k = torch.zeros(B, dtype=torch.int64)
    full, half = (call(head, counted, forced, states, k, share) for share in (1.0, 0.5))
    assert calls.sizes == [N * B, N * B]
    torch.testing.assert_close(half - base, 0.5 * (full - base), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        call(head, counted, forced, states, k, 1.0, base), full, rtol=0, atol=0
    )
    assert len(calls.sizes) == 2
    by_round = [call(head, denoise, forced, states, k + i, 1.0) for i in range(6)]
    assert all(not torch.equal(a, b) for a, b in pairwise(by_round[:4]))
    assert torch.equal(by_round[3], by_round[4])  # later rounds share the last embedding
    assert torch.equal(by_round[3], by_round[5])


@pytest.mark.parametrize("kind", HEADS)
def test_rows_of_a_head_are_independent(kind: str) -> None:
    denoise, noise = problem()
    head = make_head(kind, denoise)
    states = picard(denoise, noise, rounds=2).trajectory[:-1]
    k = torch.arange(B)
    together = call(head, denoise, states, states, k, 1.0)
    assert together.shape == (N, B, T, DA)
    for b in range(B):
        row = slice(b, b + 1)
        own = states[:, row]
        alone = call(head, replace(denoise, cond=denoise.cond[row]), own, own, k[row], 1.0)
        torch.testing.assert_close(together[:, row], alone, rtol=0, atol=1e-5)


def test_window_head_sees_every_state_at_every_node() -> None:
    denoise, noise = problem(F64)
    head = make_head("window", denoise)
    states = picard(denoise, noise, rounds=2).trajectory[:-1]
    k, base = torch.zeros(B, dtype=torch.int64), denoise(states, slice(0, N))
    before = call(head, denoise, states, states, k, 1.0, base)
    moved = states.clone()
    moved[-1, 0, 0, 0] += 1.0
    change = (call(head, denoise, states, moved, k, 1.0, base) - before).abs().amax(dim=(2, 3))
    assert (change[:, 0] > 1e-6).all()
    assert (change[:, 1:] < 1e-12).all()


@pytest.mark.parametrize("kind", HEADS)
def test_only_the_head_receives_gradient(kind: str) -> None:
    denoise, noise = problem()
    head = make_head(kind, denoise).requires_grad_(True).train()
    assert isinstance(denoise.network, nn.Module)
    denoise.network.requires_grad_(True)
    states = picard(denoise, noise, rounds=1).trajectory[:-1].detach()
    call(head, denoise, states, states, torch.arange(B), 1.0).square().sum().backward()
    for name, p in head.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name
    weights = [p for p in denoise.network.parameters() if p.ndim > 1]
    assert all(p.grad is None for p in weights)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_lora_head_is_a_network_with_merged_weights(share: float) -> None:
    for net in (mlp(), ConditionalUnet1d(DA, T, C, down_dims=(8, 16), step_embed_dim=16)):
        denoise, noise = problem(network=randomize(net, 0.8, 0))
        head = LoraHead(net, rank=2, alpha=3.0)
        randomize(head, 1.0, 5)
        changed = dict(net.named_parameters())
        for key in head.up:
            name = key.replace("/", ".")
            delta = 1.5 * torch.einsum("or,ri->oi", head.up[key], head.down[key])
            changed[name] = changed[name] + share * delta.reshape(changed[name].shape)
        assert {k for k, p in net.named_parameters() if p.ndim > 1} == {
            k.replace("/", ".") for k in head.up
        }
        states = picard(denoise, noise, rounds=2).trajectory[:-1]
        found = call(head, denoise, states, states, torch.zeros(B, dtype=torch.int64), share)
        net.load_state_dict(changed)
        torch.testing.assert_close(found, denoise(states, slice(0, N)), rtol=0, atol=1e-4)


def test_merged_lora_weights_do_not_outlive_what_they_were_merged_from() -> None:
    denoise, noise = problem()
    head = make_head("lora", denoise)
    states = noise.initial.expand(N, B, T, DA)
    k = torch.zeros(B, dtype=torch.int64)
    with torch.inference_mode():
        before = call(head, denoise, states, states, k, 1.0).clone()
    # usable with gradients afterwards
    assert isinstance(denoise.network, nn.Module)
    grads = states.clone().requires_grad_()
    call(head, denoise, grads, grads, k, 1.0).sum().backward()
    assert grads.grad is not None
    # another type
    double, _ = problem(F64, network=denoise.network)
    head.double()
    after = call(head, double, states.double(), states.double(), k, 1.0)
    torch.testing.assert_close(after.float(), before, rtol=0, atol=1e-4)
    # other weights
    head.load_state_dict({name: 2 * value for name, value in head.state_dict().items()})
    assert (
        float((call(head, double, states.double(), states.double(), k, 1.0) - after).abs().max())
        > 0.1
    )


def test_unknown_heads_and_options_are_refused() -> None:
    net = mlp()
    for name, options, match in [
        ("window", {"depht": 3}, "depht"),
        ("feature", {}, "unknown head 'feature': use one of copy, lora, window, or module:Name"),
        ("lora", {"rank": 0}, "rank=0: must be at least 1"),
    ]:
        with pytest.raises(PcmError, match=match) as caught:
            build_head(name, net, N, DA, T, C, options)
        assert "\n" not in str(caught.value)


# --- batches


@pytest.mark.parametrize("strengths", [(), (1.0, 1.0)])
@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_a_row_does_not_depend_on_its_batch_mates(name: str, strengths: tuple[float, ...]) -> None:
    """Full window, coarse tolerance: rows stop in different rounds, far from the fixed point."""
    denoise, noise = problem(F64, "v_prediction", batch=6, steps=16, name=name)
    denoise = replace(denoise, cond=denoise.cond * torch.logspace(-1, 1, 6, dtype=F64)[:, None])
    head = make_head("window", denoise, gain=0.3)
    exact = sequential(denoise, noise).trajectory
    seen: list[Tensor] = []

    def run(d: Denoiser, z: Noise, **more: Any) -> SolveResult:
        return picard(d, z, tolerance=0.05, safety=1.0, head=head, shares=strengths, **more)

    together = run(denoise, noise, watch=lambda states: seen.append(states.clone()))
    rounds, early = [], []
    for b in range(6):
        row = slice(b, b + 1)
        steps = None if noise.steps is None else noise.steps[:, row]
        alone = run(replace(denoise, cond=denoise.cond[row]), Noise(noise.initial[row], steps))
        rounds.append(alone.rounds)
        difference = (together.trajectory[:, row] - alone.trajectory).abs().max()
        assert float(difference) < 1e-10
        for later in seen[alone.rounds - 1 :]:  # untouched once settled
            assert torch.equal(later[:, b], together.trajectory[:, b])
        early.append(float((alone.trajectory - exact[:, row]).abs().max()))
        assert torch.equal(together.certified[row], alone.certified)
        torch.testing.assert_close(
            together.residuals[: alone.rounds, row], alone.residuals, rtol=0, atol=1e-10
        )
    assert together.rounds == max(rounds)
    assert len(set(rounds)) > 1
    assert max(early) > 1e-4  # a row that ran on would have moved


class Counter:
    """A network that remembers how many rows each call had."""

    def __init__(self, network: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        self.network, self.sizes = network, list[int]()

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        assert x.shape[0] == t.shape[0] == cond.shape[0]
        self.sizes.append(x.shape[0])
        return self.network(x, t, cond)


def test_rounds_and_evaluations_are_those_that_happened() -> None:
    denoise, noise = problem(name="ddpm")
    head = make_head("window", denoise)
    calls = Counter(denoise.network)
    counted = denoise.with_network(calls)
    headed: dict[str, Any] = {"head": head, "shares": (1.0, 1.0)}
    for solve, expected in [
        (lambda: sequential(counted, noise), [1] * N),
        (lambda: picard(counted, noise, rounds=4), [N, N - 1, N - 2, N - 3]),
        (lambda: picard(counted, noise, rounds=N, window=5), [5, 5, 5, 5, 5, 5, 4, 3, 2, 1]),
        (lambda: picard(counted, noise, rounds=4, **headed), [N, N, N, N - 1]),
        (lambda: picard(counted, noise, tolerance=1e-3), None),
        (lambda: picard(counted, noise, tolerance=1e-3, window=4, **headed), None),
        (lambda: paradigms(counted, noise, rounds=4), [N, N - 1, N - 2, N - 3]),
        (lambda: paradigms(counted, noise, tolerance=1e-3, window=4), None),
    ]:
        calls.sizes.clear()
        found: SolveResult = solve()  # type: ignore[no-untyped-call]
        if expected is not None:
            assert calls.sizes == [B * size for size in expected]
            assert found.nfe * B == sum(calls.sizes)
        assert found.rounds == len(calls.sizes)
        assert found.nfe * B >= sum(calls.sizes)  # rows that are certified are evaluated no more
        assert found.residuals.shape == (found.rounds, B)
        assert found.certified.shape == (B,)
        assert found.sample.shape == (B, T, DA)
        assert found.trajectory.shape == (N + 1, B, T, DA)


def test_residuals_are_the_largest_change_of_each_round() -> None:
    denoise, noise = problem(name="ddpm")
    head = make_head("window", denoise)
    seen = [forcing(denoise.sampler, noise)]
    found = picard(
        denoise,
        noise,
        rounds=6,
        head=head,
        shares=(1.0,),
        watch=lambda s: seen.append(s.clone()),
    )
    changes = [(b - a).abs().amax(dim=(0, 2, 3)) for a, b in pairwise(seen)]
    torch.testing.assert_close(found.residuals, torch.stack(changes), rtol=0, atol=1e-6)
    assert (found.residuals > 0).all()


def test_residuals_of_paradigms_forget_the_states_that_are_exact() -> None:
    denoise, noise = problem(name="ddpm")
    seen = [noise.initial.expand(N + 1, B, T, DA)]
    found = paradigms(denoise, noise, rounds=N, watch=lambda s: seen.append(s.clone()))
    changes = [(b - a).abs().amax(dim=(0, 2, 3)) for a, b in pairwise(seen)]
    torch.testing.assert_close(found.residuals, torch.stack(changes), rtol=0, atol=1e-6)
    assert (found.residuals[-1] < 0.1 * found.residuals[0]).all()


def test_a_guess_is_where_the_iteration_starts() -> None:
    denoise, noise = problem(name="ddpm")
    exact = sequential(denoise, noise)
    for guess in guesses(exact, denoise)[1:]:
        assert guess is not None
        start = forcing(denoise.sampler, noise)
        start = start + combine(denoise.sampler.M, guess.expand(N, B, T, DA))
        after = forcing(denoise.sampler, noise)
        after = after + combine(denoise.sampler.M, denoise(start[:-1], slice(0, N)))
        found = picard(denoise, noise, rounds=1, guess=guess)
        torch.testing.assert_close(found.trajectory, after, rtol=0, atol=1e-5)
    # the last guess was the solution itself: one round confirms it
    settled = picard(denoise, noise, tolerance=1e-3, guess=guess)
    assert settled.rounds == 1
    assert settled.certified.all()
    assert picard(denoise, noise, tolerance=1e-3).rounds > 3


def test_what_is_not_finite_is_never_certified() -> None:
    denoise, noise = problem()
    noise.initial[1, 0, 0] = float("nan")
    for options in ({"rounds": N}, {"tolerance": 1e-3}):
        found = picard(denoise, noise, **options)  # type: ignore[arg-type]
        assert found.certified.tolist() == [True, False, True]


# --- no reading back from the device


class Reads(TorchDispatchMode):
    """Counts operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.item,
            torch.ops.aten.nonzero,
            torch.ops.aten.equal,
        ):
            self.count += 1
        return func(*args, **(kwargs or {}))


FIXED = [
    pytest.param({"rounds": 4}, id="full"),
    pytest.param({"rounds": N, "window": 5}, id="window"),
    pytest.param({"rounds": 4, "shares": (1.0, 0.5)}, id="head"),
]


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("options", FIXED)
def test_fixed_rounds_read_nothing_back(kind: str, options: dict[str, Any]) -> None:
    denoise, noise = problem(name="ddpm")
    head = make_head(kind, denoise)
    with Reads() as control:
        picard(denoise, noise, tolerance=1e-3)
    assert control.count > 0
    with Reads() as reads:
        picard(denoise, noise, head=head, **options)
    assert reads.count == 0


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("options", FIXED)
def test_fixed_rounds_run_without_values(kind: str, options: dict[str, Any]) -> None:
    """Meta tensors have none: whatever reads one, ``tolist`` included, raises."""
    denoise, noise = problem(name="ddpm")
    head = make_head(kind, denoise).to("meta")
    assert isinstance(denoise.network, nn.Module)
    sampler = denoise.sampler.to("meta", torch.float32)
    sampler = replace(sampler, timesteps=sampler.timesteps.to("meta"))
    away = replace(
        denoise,
        network=denoise.network.to("meta"),
        sampler=sampler,
        cond=denoise.cond.to("meta"),
    )
    noise = noise.to("meta", torch.float32)
    found = picard(away, noise, head=head, **options)
    assert found.sample.shape == (B, T, DA)
    paradigms(away, noise, rounds=4)
    with pytest.raises((RuntimeError, NotImplementedError)):
        picard(away, noise, tolerance=1e-3, window=5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("options", FIXED)
def test_fixed_rounds_do_not_synchronize(kind: str, options: dict[str, Any]) -> None:
    denoise, noise = problem(name="ddpm")
    head = make_head(kind, denoise).to("cuda")
    assert isinstance(denoise.network, nn.Module)
    exact = sequential(denoise, noise)
    there = replace(
        denoise,
        network=denoise.network.to("cuda"),
        sampler=denoise.sampler.to("cuda", torch.float32),
        cond=denoise.cond.to("cuda"),
    )
    noise = noise.to("cuda", torch.float32)
    picard(there, noise, head=head, **options)  # libraries start up
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        picard(there, noise, head=head, **options)
        found = picard(there, noise, rounds=N)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(found.sample.cpu(), exact.sample, rtol=0, atol=1e-3)


# --- mistakes


@pytest.mark.parametrize("solver", [picard, paradigms])
def test_numbers_of_rounds_and_windows_are_checked(solver: Callable[..., SolveResult]) -> None:
    denoise, noise = problem()
    for options, match in [
        ({"rounds": 0}, "solver.rounds=0"),
        ({"rounds": N, "window": 0}, "solver.window=0"),
    ]:
        with pytest.raises(PcmError, match=match) as caught:
            solver(denoise, noise, **options)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rounds": 3, "window": 5}, "never reaches the last of 10 states"),
        ({"rounds": 3, "shares": (1.5,)}, r"solver\.shares=1\.5: use a finite number from 0 to 1"),
        ({"rounds": 3, "shares": (1.0, -0.1)}, "solver.shares="),
        ({"rounds": 3, "shares": (float("nan"),)}, "solver.shares="),
        ({"rounds": 3, "shares": (1.0,), "head": None}, "no PCM head"),
        ({"rounds": 3, "guess": torch.zeros(B, T, DA + 1)}, r"guess has shape \(3, 4, 3\)"),
        ({"rounds": 3, "guess": torch.zeros(N + 1, B, T, DA)}, r"expected \(3, 4, 2\) or \(10,"),
    ],
)
def test_picard_names_what_is_wrong(options: dict[str, Any], match: str) -> None:
    denoise, noise = problem()
    head = make_head("window", denoise)
    with pytest.raises(PcmError, match=match) as caught:
        picard(denoise, noise, **{"head": head, **options})
    assert "\n" not in str(caught.value)


def test_the_smallest_window_that_reaches_the_end_is_accepted() -> None:
    denoise, noise = problem()
    assert picard(denoise, noise, rounds=3, window=N - 2).rounds == 3
    with pytest.raises(PcmError, match="never reaches"):
        picard(denoise, noise, rounds=3, window=N - 3)


@pytest.mark.parametrize("solver", [sequential, picard, paradigms])
def test_stochastic_samplers_need_their_step_noise(solver: Callable[..., SolveResult]) -> None:
    denoise, noise = problem(name="ddpm")
    assert noise.steps is not None
    options = {} if solver is sequential else {"rounds": N}
    for have, steps in ((0, None), (4, noise.steps[:4])):
        with pytest.raises(PcmError, match=f"of 10 steps needs as many .* got {have}") as caught:
            solver(denoise, Noise(noise.initial, steps), **options)
        assert "\n" not in str(caught.value)
    # surplus noise is not used
    more = torch.cat([noise.steps, noise.steps])
    surplus = solver(denoise, Noise(noise.initial, more), **options)
    assert torch.equal(surplus.sample, solver(denoise, noise, **options).sample)


@pytest.mark.parametrize("solver", [sequential, picard, paradigms])
def test_solvers_do_not_change_their_inputs(solver: Callable[..., SolveResult]) -> None:
    denoise, noise = problem(name="ddpm")
    assert noise.steps is not None
    guess = torch.randn(N, B, T, DA)
    kept = [t.clone() for t in (noise.initial, noise.steps, denoise.cond, guess, denoise.sampler.M)]
    options: dict[str, Any] = {} if solver is sequential else {"rounds": N}
    if solver is picard:
        options["guess"] = guess
    solver(denoise, noise, **options)
    for before, after in zip(
        kept, (noise.initial, noise.steps, denoise.cond, guess, denoise.sampler.M), strict=True
    ):
        assert torch.equal(before, after)
