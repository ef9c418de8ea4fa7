"""Every solver finds the solution of ``X = F + M D(X)``, the sequential sampler's trajectory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pcm_policy.denoise import Denoiser, PredictionType
from pcm_policy.errors import PcmError
from pcm_policy.heads import build_head
from pcm_policy.networks.mlp import ResidualMLP
from pcm_policy.noise import Noise, generator_noise
from pcm_policy.samplers import SamplerConfig, build_sampler
from pcm_policy.schedules import NoiseSchedule
from pcm_policy.solve import as_predictor
from pcm_policy.solvers import SolveResult, paradigms, picard, sequential
from pcm_policy.solvers.base import combine, forcing
from pcm_policy.solvers.picard import Predictor

B, T, DA, C, N = 3, 4, 2, 3, 12
HEADS = ["window", "lora"]
SAMPLERS = {
    "ddpm": SamplerConfig("ddpm", N),
    **{
        f"ddim-eta{eta}-{'rederived' if rederive else 'kept'}": SamplerConfig(
            "ddim", N, eta=eta, rederive_epsilon=rederive
        )
        for eta in (0.0, 0.5, 1.0)
        for rederive in (True, False)
    },
}
DDIM, DDPM = SamplerConfig("ddim", N), SAMPLERS["ddpm"]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def randomise(module: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Draw every weight, so that nothing is left at zero; outputs stay of order one."""
    gen = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        inner = p[0].numel() if p.ndim > 1 else 4
        p.copy_(gain * torch.randn(p.shape, generator=gen) / inner**0.5)


def problem(
    config: SamplerConfig = DDIM,
    prediction: PredictionType = "v_prediction",
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    batch: int = B,
) -> tuple[Denoiser, Noise]:
    """A clipped denoiser of our own with random weights, and noise for it."""
    network = ResidualMLP(DA, T, C, width=32, depth=1, step_embed_dim=16)
    randomise(network, seed=0)
    network.eval().requires_grad_(False).to(device, dtype)
    gen = torch.Generator().manual_seed(1)
    sampler = build_sampler(NoiseSchedule(), config).to(device, dtype)
    noise = generator_noise(gen, batch, (T, DA), config.steps).to(device, dtype)
    cond = torch.randn(batch, C, generator=gen).to(device, dtype)
    return Denoiser(network, sampler, cond, prediction), noise


def random_head(name: str, denoise: Denoiser) -> nn.Module:
    options = {"window": {"width": 32, "depth": 1, "cond_width": 16}, "lora": {"rank": 2}}
    assert isinstance(denoise.network, nn.Module)
    steps = denoise.sampler.steps
    head = build_head(name, denoise.network, steps, DA, T, C, options[name])
    randomise(head, seed=2, gain=0.5)
    return head.eval().to(denoise.cond.device, denoise.cond.dtype)


def distance(result: SolveResult, exact: SolveResult) -> float:
    return float((result.trajectory - exact.trajectory).abs().max())


@contextmanager
def counted(network: Any) -> Iterator[list[int]]:
    """Collect the number of rows of every network call."""
    calls: list[int] = []
    hook = network.register_forward_hook(lambda _m, args, _out: calls.append(args[0].shape[0]))
    yield calls
    hook.remove()


def guesses(exact: SolveResult, denoise: Denoiser) -> list[Tensor | None]:
    gen = torch.Generator().manual_seed(3)
    clean = torch.stack(
        [denoise(exact.trajectory[j : j + 1], slice(j, j + 1))[0] for j in range(N)]
    )
    return [None, torch.randn(B, T, DA, generator=gen), torch.randn(clean.shape, generator=gen), clean]


@pytest.mark.parametrize("window", [None, N, 5, 1])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_picard_is_sequential(name: str, prediction: PredictionType, window: int | None) -> None:
    denoise, noise = problem(SAMPLERS[name], prediction)
    exact = sequential(denoise, noise)
    for guess in guesses(exact, denoise):
        with counted(denoise.network) as calls:
            found = picard(denoise, noise, tolerance=1e-5, window=window, guess=guess)
        assert distance(found, exact) <= 1e-4
        assert torch.equal(found.sample, found.trajectory[-1])
        assert found.certified.all()
        assert found.rounds == len(calls) <= N
        assert found.nfe == sum(calls) / B
        assert found.residuals.shape == (found.rounds, B)
    assert found.rounds == {None: 1, N: 1, 5: 3, 1: N}[window]  # guess was the solution itself


@pytest.mark.parametrize("name", SAMPLERS)
def test_picard_is_sequential_in_float64(name: str) -> None:
    denoise, noise = problem(SAMPLERS[name], dtype=torch.float64)
    exact = sequential(denoise, noise)
    for window in (None, 5):
        assert distance(picard(denoise, noise, rounds=N, window=window), exact) <= 1e-11
        assert distance(picard(denoise, noise, tolerance=1e-9, window=window), exact) <= 1e-8


@pytest.mark.parametrize("window", [None, 16])
def test_picard_is_sequential_over_100_ddpm_steps(window: int | None) -> None:
    denoise, noise = problem(SamplerConfig("ddpm", 100))
    exact = sequential(denoise, noise)
    found = picard(denoise, noise, tolerance=1e-4, window=window)
    assert distance(found, exact) <= 1e-4
    assert found.certified.all()
    assert found.rounds < 50


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", ["ddpm", "ddim-eta0.0-rederived", "ddim-eta0.5-kept"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)]
)
def test_r_rounds_make_r_states_exact(
    name: str, window: int | None, dtype: torch.dtype, tolerance: float
) -> None:
    denoise, noise = problem(SAMPLERS[name], dtype=dtype)
    exact = sequential(denoise, noise).trajectory
    wrong = []
    for r in range(1 if window is None else N - window + 1, N + 1):
        found = picard(denoise, noise, rounds=r, window=window)
        error = (found.trajectory - exact).abs().amax(dim=(1, 2, 3))
        assert error[: r + 1].max() <= tolerance, r
        wrong.append(float(error[-1]))
        assert bool(found.certified.all()) == (r == N)
    if window is None:
        assert wrong[0] > 0.1  # there was something to iterate for


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 12), st.integers(0, 2**31))
def test_any_strictly_triangular_affine_map(steps: int, window: int, seed: int) -> None:
    """With a linear ``D`` the solution is known from one linear solve, free of any solver."""
    gen = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=gen, dtype=torch.float64)

    plain = build_sampler(NoiseSchedule(), SamplerConfig("ddpm", steps))
    M, S = draw(steps + 1, steps).tril(-1) / 2, draw(steps + 1, steps).tril(-1)
    sampler = replace(plain, M=M, S=S, p=torch.cat([torch.ones(1), draw(steps)]), stochastic=True)
    slope, shift = draw(2)
    denoise = Denoiser(
        lambda x, t, cond: slope * x + shift, sampler, draw(2, 1), "sample", clip=None
    )
    start, kicks = draw(2, 3, 2), draw(steps, 2, 3, 2)
    noise = Noise(start, kicks)
    fixed_part = sampler.p[:, None] * start.flatten() + S @ kicks.flatten(1)
    square = torch.cat([M, M.new_zeros(steps + 1, 1)], dim=1)
    right = fixed_part + M.sum(dim=1, keepdim=True) * shift
    known = torch.linalg.solve(torch.eye(steps + 1, dtype=M.dtype) - slope * square, right)
    scale = float(known.abs().max())
    for found in (
        sequential(denoise, noise),
        picard(denoise, noise, rounds=steps),
        picard(denoise, noise, tolerance=0.0, window=window),
        picard(denoise, noise, tolerance=1e-9 * scale, guess=draw(2, 3, 2)),
    ):
        assert found.certified.all()
        assert (found.trajectory.reshape(steps + 1, -1) - known).abs().max() <= 1e-8 * scale


@pytest.mark.parametrize("window", [None, 5, 1])
@pytest.mark.parametrize("name", SAMPLERS)
def test_paradigms_has_the_same_fixed_point(name: str, window: int | None) -> None:
    denoise, noise = problem(SAMPLERS[name])
    exact = sequential(denoise, noise)
    options: list[dict[str, Any]] = [{"tolerance": 1e-6}, {"rounds": N}]
    for option in options:
        with counted(denoise.network) as calls:
            found = paradigms(denoise, noise, window=window, **option)
        assert distance(found, exact) <= 1e-4
        assert found.certified.all()
        assert (found.rounds, found.nfe) == (len(calls), sum(calls) / B)
        assert found.rounds <= N
        assert found.residuals.shape == (found.rounds, B)
    if window is None:
        assert not paradigms(denoise, noise, rounds=N - 1).certified.any()
        first = paradigms(denoise, noise, rounds=2).sample
        assert (first - exact.sample).abs().max() > 0.05


@pytest.mark.parametrize("solver", [picard, paradigms])
def test_residuals_are_the_changes_of_each_round(solver: Callable[..., SolveResult]) -> None:
    denoise, noise = problem(DDPM)
    if solver is picard:
        seen = [forcing(denoise.sampler, noise)]
    else:
        seen = [noise.initial.expand(N + 1, *noise.initial.shape)]
    found = solver(denoise, noise, rounds=N, watch=lambda states: seen.append(states.clone()))
    assert len(seen) == found.rounds + 1
    assert torch.equal(seen[-1], found.trajectory)
    moved = [(b - a).abs().amax(dim=(0, 2, 3)) for a, b in pairwise(seen)]
    torch.testing.assert_close(found.residuals, torch.stack(moved))
    assert (found.residuals[-1] < 1e-2 * found.residuals[0]).all()


def test_evaluations_are_counted() -> None:
    denoise, noise = problem()
    head = as_predictor(random_head("window", denoise))
    assert picard(denoise, noise, rounds=3).nfe == N + (N - 1) + (N - 2)
    assert picard(denoise, noise, rounds=N, window=1).nfe == N
    assert picard(denoise, noise, rounds=3, head=head, strengths=(1, 1)).nfe == 3 * N
    assert sequential(denoise, noise).nfe == sequential(denoise, noise).rounds == N


def test_a_certified_row_does_not_depend_on_its_batch_mates() -> None:
    denoise, noise = problem(batch=8)
    rounds = set()
    together = picard(denoise, noise, tolerance=0.2)
    for i in range(8):
        row = slice(i, i + 1)
        alone = picard(
            replace(denoise, cond=denoise.cond[row]), Noise(noise.initial[row]), tolerance=0.2
        )
        rounds.add(alone.rounds)
        assert (alone.sample - together.sample[row]).abs().max() <= 1e-5
    assert len(rounds) > 1
    assert together.rounds == max(rounds)


@pytest.mark.parametrize("error", [0.3, 0.03, 0.003])
def test_certified_error_holds_for_this_network(error: float) -> None:
    denoise, noise = problem(batch=32)
    found = picard(denoise, noise, tolerance=error)
    assert found.certified.all()
    assert found.rounds < N
    assert distance(found, sequential(denoise, noise)) <= error
    assert not picard(denoise, noise, tolerance=error, rounds=1).certified.any()


@pytest.mark.parametrize("config", [DDIM, DDPM], ids=["ddim", "ddpm"])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_without_share_is_the_base(name: str, config: SamplerConfig) -> None:
    denoise, noise = problem(config)
    head = as_predictor(random_head(name, denoise))
    for r in (1, 2, N):
        base = picard(denoise, noise, rounds=r)
        same = picard(denoise, noise, rounds=r, head=head, strengths=(0.0,) * r)
        assert torch.equal(same.trajectory, base.trajectory)
        assert torch.equal(same.residuals, base.residuals)
    states = sequential(denoise, noise).trajectory[:-1]
    predictions = denoise(states, slice(0, N))
    assert torch.equal(head(denoise, states, 0, 0.0), predictions)
    assert (head(denoise, states, 0, 1.0) - predictions).abs().max() > 0.1


@pytest.mark.parametrize("strengths", [(1.0,), (1.0,) * 4, (1.0, 0.6, 0.2), (0.0, 1.0)])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", HEADS)
def test_model_switching_is_exact(
    name: str, window: int | None, strengths: tuple[float, ...]
) -> None:
    """Whatever the head does, base rounds after it lead to the base model's sample."""
    denoise, noise = problem()
    exact = sequential(denoise, noise)
    head = as_predictor(random_head(name, denoise))
    with counted(denoise.network) as calls:
        found = picard(
            denoise, noise, tolerance=1e-5, window=window, head=head, strengths=strengths
        )
    assert distance(found, exact) <= 1e-4
    assert found.certified.all()
    assert found.rounds == len(calls) <= N + len(strengths)
    assert found.nfe == sum(calls) / B


@pytest.mark.parametrize("tolerance", [None, 1e-3, 1e9])
@pytest.mark.parametrize("name", HEADS)
def test_without_switching_nothing_is_certified(name: str, tolerance: float | None) -> None:
    """However still the head stands: only a base round says something about the base model."""
    denoise, noise = problem()
    exact = sequential(denoise, noise)
    head = as_predictor(random_head(name, denoise))
    found = picard(
        denoise, noise, rounds=30, tolerance=tolerance, head=head, strengths=(1.0,) * 30
    )
    assert found.rounds == 30
    assert found.residuals[-1].max() <= 1e-3  # it has converged, but elsewhere
    assert distance(found, exact) > 0.05
    assert not found.certified.any()


class Readbacks(TorchDispatchMode):
    """Count operations that read values back to the host."""

    names = ("_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal", "masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.count += func.overloadpacket.__name__.split(".")[-1] in self.names
        return func(*args, **(kwargs or {}))


@contextmanager
def readbacks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Readbacks]:
    """Count them also where the dispatcher does not see them: ``tolist`` reads memory directly."""
    mode = Readbacks()

    def spy(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            mode.count += 1
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__float__", "__int__"):
            patch.setattr(Tensor, name, spy(getattr(Tensor, name)))
        with mode:
            yield mode


def fixed_solves(denoise: Denoiser, noise: Noise) -> list[Callable[[], SolveResult]]:
    heads: list[Predictor] = [as_predictor(random_head(name, denoise)) for name in HEADS]
    return [
        lambda: picard(denoise, noise, rounds=4),
        lambda: picard(denoise, noise, rounds=9, window=5, guess=noise.initial),
        *(lambda h=h: picard(denoise, noise, rounds=3, head=h, strengths=(1, 0.5)) for h in heads),
        lambda: paradigms(denoise, noise, rounds=4),
        lambda: sequential(denoise, noise),
    ]


@pytest.mark.parametrize("config", [DDIM, DDPM], ids=["ddim", "ddpm"])
def test_fixed_rounds_read_nothing_back(
    config: SamplerConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, noise = problem(config)
    for solve in fixed_solves(denoise, noise):
        with readbacks(monkeypatch) as seen:
            solve()
        assert seen.count == 0
    for solver in (picard, paradigms):
        with readbacks(monkeypatch) as seen:
            solver(denoise, noise, tolerance=1e-3)
        assert seen.count > 0


@pytest.mark.gpu
def test_fixed_rounds_never_wait_for_the_gpu() -> None:
    denoise, noise = problem(DDPM, device="cuda")
    for solve in fixed_solves(denoise, noise):
        expected = solve().sample  # warm: libraries are loaded, weights merged
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            again = solve().sample
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(again, expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give solver.rounds, solver.tolerance or both"),
        ({"rounds": 0}, "solver.rounds=0"),
        ({"rounds": 3, "window": 0}, "solver.window=0"),
        ({"rounds": 3, "window": N - 3}, "never reaches the last of 12"),
        ({"rounds": 3, "strengths": (1.0,)}, "no PCM head"),
        ({"rounds": 3, "strengths": (1.5,)}, "must lie in"),
        ({"rounds": 3, "strengths": (-0.1,)}, "must lie in"),
        ({"rounds": 3, "guess": torch.zeros(B, T + 1, DA)}, "guess has shape"),
        ({"rounds": 3, "guess": torch.zeros(N + 1, B, T, DA)}, "guess has shape"),
    ],
)
def test_picard_refuses(options: dict[str, Any], words: str) -> None:
    denoise, noise = problem()
    with pytest.raises(PcmError, match=words):
        picard(denoise, noise, **options)
    picard(denoise, noise, rounds=3, window=N - 2)


@pytest.mark.parametrize("options", [{}, {"rounds": 0}, {"rounds": 3, "window": 0}])
def test_paradigms_refuses(options: dict[str, Any]) -> None:
    denoise, noise = problem()
    with pytest.raises(PcmError, match="solver.rounds"):
        paradigms(denoise, noise, **options)


@pytest.mark.parametrize("solver", [sequential, picard, paradigms])
def test_missing_step_noise_is_refused(solver: Callable[..., SolveResult]) -> None:
    denoise, noise = problem(DDPM)
    assert noise.steps is not None
    options: dict[str, Any] = {} if solver is sequential else {"rounds": N}
    for steps in (None, noise.steps[:-1]):
        with pytest.raises(PcmError, match="needs as many step noises"):
            solver(denoise, Noise(noise.initial, steps), **options)
    longer = Noise(noise.initial, torch.cat([noise.steps, noise.steps]))
    torch.testing.assert_close(
        solver(denoise, longer, **options).sample, solver(denoise, noise, **options).sample
    )


def test_guess_enters_as_predictions() -> None:
    denoise, noise = problem()
    guess = torch.randn(B, T, DA, generator=torch.Generator().manual_seed(4))
    start = forcing(denoise.sampler, noise) + combine(
        denoise.sampler.M, guess.expand(N, *guess.shape)
    )
    one = picard(denoise, noise, rounds=1, guess=guess).trajectory
    expected = forcing(denoise.sampler, noise) + combine(
        denoise.sampler.M, denoise(start[:-1], slice(0, N))
    )
    torch.testing.assert_close(one, expected)
