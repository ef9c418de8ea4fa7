"""The benchmark of Jacobians, on a denoiser that is linear and known."""

import pytest
import torch

from benchmarks.solvers.linearised import (
    ERROR,
    ROWS,
    Secants,
    blocks,
    damped,
    diagonal,
    errors,
    linear,
    part,
    rounds_needed,
    whole,
)
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers import start
from pcm_policy.solvers.jacobian import DAMPING, Jacobian
from pcm_policy.solvers.system import Iterate, System
from tests.solving import sequential

N, B, T, DA = 6, 3, 4, 2
F64 = torch.float64


def problem() -> tuple[System, Iterate, torch.Tensor, torch.Tensor]:
    """Return a solve of ``D(x) = A x + sin(x) / 20``, its end, and ``A``."""
    draws = torch.Generator().manual_seed(0)
    A = 0.3 * torch.randn(T * DA, T * DA, generator=draws, dtype=F64)
    config = SamplerConfig("ddim", N, eta=1.0)
    sampler = build_sampler(NoiseSchedule(), config).to("cpu", F64)

    def network(x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1) @ A.T).view_as(x) + 0.05 * x.sin()

    denoise = Denoiser(network, sampler, torch.zeros(B, 0, dtype=F64), "sample", None)
    shape = (B, T, DA)
    drawn = (torch.randn(*more, *shape, generator=draws, dtype=F64) for more in ((), (N,)))
    noise = Noise(*drawn)
    mean = Jacobian.of(sampler, A.diagonal().view(T, DA).expand(N, T, DA))
    s, x = start(denoise, noise, jacobian=mean)
    return s, x, sequential(denoise, noise).sample, A


def test_the_whole_jacobian_is_the_networks() -> None:
    s, x, _, A = problem()
    at = x.X[:-1].flatten(2)
    expected = A + 0.05 * torch.diag_embed(at.cos())
    torch.testing.assert_close(whole(s, at, at), expected, rtol=1e-9, atol=1e-9)
    for mask, step in ((diagonal, 1), (blocks, DA)):
        index = torch.arange(T * DA) // step
        kept = (index[:, None] == index).to(F64)
        found = part(mask)(s, at, at)
        torch.testing.assert_close(found, expected * kept, rtol=1e-9, atol=1e-9)
    half = damped(whole)(s, at, at)
    torch.testing.assert_close(half, DAMPING * expected, rtol=1e-9, atol=1e-9)


def test_the_linear_solve_is_its_equation() -> None:
    s, x, _, _ = problem()
    draws = torch.Generator().manual_seed(1)
    D = torch.randn(N, B, T * DA, generator=draws, dtype=F64)
    J = 0.2 * torch.randn(N, B, T * DA, T * DA, generator=draws, dtype=F64)
    at = x.X[:-1].flatten(2)
    found = linear(s, D, J, at)
    P = D + (J @ (found[:-1] - at)[..., None])[..., 0]
    expected = s.sweep(P.view_as(s.F[:-1])).flatten(2)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_ends_at_the_samplers_chunk(name: str) -> None:
    s, x, exact, _ = problem()
    with torch.no_grad():
        found = errors(s, x, exact, ROWS[name][0]())
    assert found[-1].max() < ERROR / 100
    assert int(rounds_needed(found).max()) <= N


def test_better_jacobians_take_fewer_rounds() -> None:
    s, x, exact, _ = problem()
    counted = {}
    with torch.no_grad():
        for name in ("none (Picard)", "at the iterate, whole"):
            counted[name] = rounds_needed(errors(s, x, exact, ROWS[name][0]())).double().mean()
        secants = rounds_needed(errors(s, x, exact, Secants())).double().mean()
    assert counted["at the iterate, whole"] < secants <= counted["none (Picard)"]


def test_a_round_counts_only_if_the_error_stays_small() -> None:
    found = torch.tensor([[1.0, 1e-4], [1e-4, 1.0], [1e-5, float("nan")], [1e-5, 1e-5]])
    assert rounds_needed(found).tolist() == [2, 4]
