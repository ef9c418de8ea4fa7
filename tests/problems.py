"""Small problems that the solver tests share: random networks, heads and triangular systems."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.heads import build_head
from pcm_policy.networks.mlp import ResidualMLP
from pcm_policy.sampling.denoise import Denoiser, PredictionType
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.sampling.samplers import SamplerConfig, build_sampler, unroll
from pcm_policy.sampling.schedules import NoiseSchedule
from pcm_policy.solvers import SolveResult
from tests.builders import PLAIN_HEAD

N, B, T, DA, C = 10, 3, 4, 2, 3
F64 = torch.float64
ATOL = {torch.float32: 1e-4, F64: 1e-10}
PREDICTIONS: list[PredictionType] = ["epsilon", "sample", "v_prediction"]

SAMPLERS = [
    pytest.param({"name": name, "eta": eta, "rederive_epsilon": rederive}, id=f"{label}-{rederive}")
    for label, name, eta in [
        ("ddpm", "ddpm", 0.0),
        ("ddim-0", "ddim", 0.0),
        ("ddim-half", "ddim", 0.5),
        ("ddim-1", "ddim", 1.0),
    ]
    for rederive in (True, False)
]


def randomize(module: nn.Module, gain: float, seed: int) -> nn.Module:
    """Fill all weights from a generator; outputs stay O(1), slopes near ``gain``."""
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            fan = p.shape[1:].numel() if p.ndim > 1 else 100
            p.copy_(torch.randn(p.shape, generator=gen) * gain / fan**0.5)
    return module.requires_grad_(False).eval()


def mlp(seed: int = 0) -> ResidualMLP:
    net = ResidualMLP(DA, T, C, width=32, depth=1, step_embed_dim=16)
    randomize(net, 0.8, seed)
    return net


def problem(
    dtype: torch.dtype = torch.float32,
    prediction: PredictionType = "epsilon",
    batch: int = B,
    steps: int = N,
    network: nn.Module | None = None,
    **sampler: Any,
) -> tuple[Denoiser, Noise]:
    config = SamplerConfig(**{"steps": steps, **sampler})
    coefficients = build_sampler(NoiseSchedule(), config).to("cpu", dtype)
    gen = torch.Generator().manual_seed(7)
    noise = generator_noise(gen, batch, (T, DA), steps if coefficients.stochastic else 0)
    cond = torch.randn(batch, C, generator=gen).to(dtype)
    network = (mlp() if network is None else network).to(dtype)
    return Denoiser(network, coefficients, cond, prediction), noise.to("cpu", dtype)


def make_head(kind: str, denoise: Denoiser, gain: float = 1.0) -> nn.Module:
    """A head with arbitrary weights, whose predictions are far from the base model's."""
    assert isinstance(denoise.network, nn.Module)
    given = {"window": {**PLAIN_HEAD, "width": 24}, "lora": {"rank": 2, "alpha": 4.0}, "copy": {}}
    options: dict[str, Any] = given[kind]
    steps = denoise.sampler.steps
    head = build_head(kind, denoise.network, steps, DA, T, C, options)
    return randomize(head, gain, seed=3).to(denoise.cond.dtype)


def guesses(exact: SolveResult, denoise: Denoiser) -> list[Tensor | None]:
    """No guess, a random chunk, a random trajectory, and the exact solution."""
    gen = torch.Generator().manual_seed(11)
    full = exact.trajectory[1:].shape
    states = exact.trajectory[:-1]
    solution = denoise(states, slice(0, states.shape[0]))
    return [
        None,
        torch.randn(full[1:], generator=gen),
        torch.randn(full, generator=gen),
        solution,
    ]


def distance(a: SolveResult, b: SolveResult) -> float:
    return float((a.trajectory - b.trajectory).abs().max())


def affine_problem(
    steps: int, seed: int, one_step: bool, slope: float
) -> tuple[Denoiser, Noise, Tensor, Tensor]:
    """A random sampler and a smooth random map ``D(x) = f(A x + b_t)``, in float64."""
    gen = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.randn(*size, generator=gen, dtype=F64)

    ones = torch.ones(steps, dtype=F64)
    decay, gain, kick = rand(steps).tanh(), rand(steps).tanh(), rand(steps).abs().clamp(max=1)
    sampler = unroll(torch.arange(steps), ones, ones, decay, gain, kick, ones)
    if not one_step:
        full = rand(steps + 1, steps).tanh().tril(-1)
        sampler = replace(sampler, M=full, p=rand(steps + 1).index_fill(0, torch.tensor(0), 1.0))
    mix, bias = slope * rand(DA, DA) / DA**0.5, rand(steps, DA)
    noise = Noise(rand(2, T, DA), rand(steps, 2, T, DA))
    cond = torch.zeros(2, C, dtype=F64)
    net: Callable[[Tensor, Tensor, Tensor], Tensor]
    net = lambda x, t, _: (x @ mix + bias[t][:, None]).tanh()  # noqa: E731
    return Denoiser(net, sampler, cond, "sample", clip=None), noise, mix, bias
