"""Newton rounds in a subspace, beside the whole Jacobian and an obvious loop over the states."""

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.solvers.linearised import linear as whole_rounds
from benchmarks.solvers.linearised import whole
from pcm_policy.errors import PcmError
from pcm_policy.sampling.denoise import Denoiser
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers import Picard, Rounds, Subspace, System, Tolerance, advance, start
from pcm_policy.solvers.subspace import linear, smooth
from tests.solving import run, sequential

B, T, DA = 3, 8, 2
F64 = torch.float64


def problem(steps: int, bent: float, **sampler: Any) -> tuple[Denoiser, Noise]:
    """Return a solve of ``D(x) = A x + bent sin(3 x)``: all times of a chunk are coupled."""
    draws = torch.Generator().manual_seed(steps)
    A = torch.randn(T * DA, T * DA, generator=draws, dtype=F64) * 0.8 / (T * DA) ** 0.5
    config = SamplerConfig(sampler.pop("name", "ddim"), steps, **sampler)
    built = build_sampler(NoiseSchedule(), config).to("cpu", F64)

    def network(x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return (x.flatten(1) @ A.T).view_as(x) + bent * (3 * x).sin()

    denoise = Denoiser(network, built, torch.zeros(B, 1, dtype=F64), "sample", clip=None)
    drawn = [torch.randn(n, B, T, DA, generator=draws, dtype=F64) for n in (1, built.noise_steps)]
    return denoise, Noise(drawn[0][0], drawn[1] if built.noise_steps else None)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
@pytest.mark.parametrize("sampler", [{}, {"eta": 1.0}, {"name": "dpmpp_2m"}], ids=str)
def test_a_linear_network_takes_one_round(steps: int, sampler: dict[str, Any]) -> None:
    denoise, noise = problem(steps, 0.0, **sampler)
    exact = sequential(denoise, noise).trajectory
    found = run(Subspace(T, max(2, steps)), denoise, noise, rounds=1).trajectory
    assert float((found - exact).abs().max()) < 1e-9


@pytest.mark.parametrize("modes", [1, 3, T])
def test_a_round_is_that_of_the_whole_jacobian_projected(modes: int) -> None:
    """Against backward passes and a loop over the states; differences are off by their length."""
    denoise, noise = problem(9, 0.005, eta=1.0)
    s, x = start(denoise, noise)
    _, x, _ = next(iter_rounds(s, x))  # a second iterate, which is not the noise alone
    D = denoise(x.X[:-1], slice(0, 9)).flatten(2)
    basis = torch.kron(smooth(T, modes, D), torch.eye(DA, dtype=F64))
    J = whole(s, x.X[:-1].flatten(2), D) @ (basis.T @ basis)
    slow = whole_rounds(s, D, J, x.X[:-1].flatten(2))
    step = Subspace(modes, 9)
    r, _ = step.step(s, x, step.init(s))
    assert float((r.X.flatten(2) - slow).abs().max()) < 2e-3
    assert float((slow - s.sweep(D.view_as(s.F[1:])).flatten(2)).abs().max()) > 1e-2


def iter_rounds(s: System, x: Any) -> Any:
    r, x, residual, _ = advance(s, Picard(), Rounds(9), x, None)
    yield r, x, residual


@pytest.mark.parametrize("count", [1, 4, 7])
def test_the_linearised_system_is_solved(count: int) -> None:
    """Put into its equation, with any Jacobian: ``P = D + J (F + M P - X)``."""
    denoise, noise = problem(count, 0.1, eta=1.0)
    s, x = start(denoise, noise)
    draws = torch.Generator().manual_seed(1)
    D, columns = torch.randn(count, B, T, DA, generator=draws, dtype=F64), []
    directions = torch.linalg.qr(torch.randn(T * DA, 3, generator=draws, dtype=F64))[0].T
    directions = directions.reshape(3, T, DA)
    columns = torch.randn(count, 3, B, T, DA, generator=draws, dtype=F64)
    P = linear(s, D, x.X[:-1], directions, columns)
    moved = s.sweep(P)[:-1] - x.X[:-1]
    along = (moved[:, None] * directions[None, :, None]).sum(dim=(3, 4), keepdim=True)
    right = D + (columns * along).sum(dim=1)
    assert float((P - right).abs().max()) < 1e-9


@pytest.mark.parametrize("modes", [1, 4, 8])
def test_directions_are_orthonormal_and_smooth(modes: int) -> None:
    waves = smooth(8, modes, torch.zeros(1, dtype=F64))
    assert float((waves @ waves.T - torch.eye(modes, dtype=F64)).abs().max()) < 1e-12
    turns = (waves.sign().diff(dim=1) != 0).sum(dim=1)  # a cosine of number n changes sign n times
    assert turns.tolist() == list(range(modes))


def test_fewer_rounds_than_picard_and_as_certain() -> None:
    denoise, noise = problem(24, 0.05, eta=1.0)
    exact = sequential(denoise, noise).sample
    stop = {"tolerance": 1e-6}
    mine, plain = (run(step, denoise, noise, **stop) for step in (Subspace(8, 12), Picard()))
    assert mine.rounds < plain.rounds - 2
    for found in (mine, plain):
        assert found.certified.all()
        assert float((found.sample - exact).abs().max()) < 1e-6
    assert mine.nfe == mine.rounds * (24 + 12 * 8 * DA)


def test_samples_that_are_no_chunks_are_refused() -> None:
    sampler = build_sampler(NoiseSchedule(), SamplerConfig("ddim", 4)).to("cpu", torch.float32)
    denoise = Denoiser(lambda x, t, c: 0.5 * x, sampler, torch.zeros(1, 0), "sample")
    s, _ = start(denoise, Noise(torch.ones(1, 3, 8, 8)))
    with pytest.raises(PcmError, match="chunks"):
        Subspace().ready(s, Tolerance())
