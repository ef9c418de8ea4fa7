"""What a network makes of step and condition is computed once a solve, and changes nothing."""

from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.networks.dit import DiffusionTransformer
from pcm_policy.networks.transformer import DenoisingTransformer
from pcm_policy.networks.unet1d import ConditionalUnet1d
from pcm_policy.runtime.precision import LowPrecision
from pcm_policy.sampling import denoise as denoise_module
from pcm_policy.solvers import SolveResult
from tests.problems import (
    DA,
    F64,
    B,
    C,
    N,
    T,
    affine_problem,
    distance,
    make_head,
    mlp,
    problem,
    randomize,
)
from tests.solving import coarse, paradigms, picard, sequential

NETWORKS = ["mlp", "unet1d", "transformer", "dit"]


def build(name: str) -> nn.Module:
    if name == "mlp":
        return mlp().double()
    if name == "transformer":
        small = {"obs_steps": 1, "n_layer": 2, "n_head": 2, "n_emb": 8}
        return randomize(DenoisingTransformer(DA, T, C, **small), 2.0, 0).double()
    if name == "dit":
        small = {"width": 8, "depth": 2, "heads": 2, "step_embed_dim": 8, "fixed_dim": 3}
        net = DiffusionTransformer(DA, T, C, **small, positions=True)
        net.fixed.copy_(torch.arange(3.0))  # type: ignore[union-attr]
        return randomize(net, 1.0, 0).double()
    net = ConditionalUnet1d(DA, T, C, down_dims=(8, 16), step_embed_dim=16)
    return randomize(net, 0.8, 0).double()


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_and_conditions_broadcast(name: str) -> None:
    net = build(name)
    gen = torch.Generator().manual_seed(2)
    x = torch.randn(N, B, T, DA, generator=gen, dtype=F64)
    cond, t = torch.randn(B, C, generator=gen, dtype=F64), torch.arange(N) * 3
    with torch.no_grad():
        outer = net.encode(t[:, None], cond)  # type: ignore[operator]
        found = net.decode(x.flatten(0, 1), outer.flatten(0, 1))  # type: ignore[operator]
        rows = net(x.flatten(0, 1), t.repeat_interleave(B), cond.repeat(N, 1))
        alone = net(x[3, :1], t[3:4], cond[:1])
    assert outer.shape[:2] == (N, B)
    torch.testing.assert_close(found, rows, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.view_as(x)[3, :1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_solve_encodes_once_and_finds_what_it_found(name: str) -> None:
    denoise, noise = problem(F64, network=build(name))
    head = make_head("window", denoise).double()

    def solves() -> list[SolveResult]:
        return [
            sequential(denoise, noise),
            picard(denoise, noise, rounds=4),
            picard(denoise, noise, tolerance=1e-9, window=5),
            coarse(denoise, noise, rounds=4),
            paradigms(denoise, noise, rounds=6),
            picard(denoise, noise, rounds=3, head=head, shares=(1.0, 1.0)),
        ]

    with patch.object(denoise.network, "encode", wraps=denoise.network.encode) as encode:  # type: ignore[attr-defined]
        found = solves()
    assert [call.args[0].shape for call in encode.call_args_list] == [(N, 1)] * len(found)
    with patch.object(denoise_module, "ENCODED_ROWS", 0):
        assert denoise.encode() is denoise
        for one, other in zip(found, solves(), strict=True):
            assert distance(one, other) <= 1e-12
            assert (one.rounds, one.nfe) == (other.rounds, other.nfe)


def test_an_encoding_stays_with_its_network() -> None:
    denoise, noise = problem(F64, network=build("mlp"))
    ahead = denoise.encode()
    assert ahead.encode() is ahead
    assert ahead.with_network(build("unet1d")).encoded is None
    plain: Tensor = denoise(noise.initial[None], slice(0, 1))
    torch.testing.assert_close(ahead(noise.initial[None], slice(0, 1)), plain, rtol=0, atol=1e-12)
    many = replace(denoise, cond=denoise.cond.repeat(2000, 1))
    assert many.encode() is many  # too much to keep
    formula = affine_problem(N, 0, True, 0.5)[0]
    assert formula.encode() is formula  # a function has no stages


def test_some_nodes_are_encoded_for_the_tensor_that_names_them() -> None:
    denoise, _ = problem(F64, network=build("mlp"))
    x = torch.randn(3, B, T, DA, generator=torch.Generator().manual_seed(4), dtype=F64)
    nodes = torch.tensor([0, 2, 5])
    some = denoise.encode(nodes)
    assert some.encoded is not None
    assert len(some.encoded) == 3
    plain: Tensor = denoise(x, nodes)
    torch.testing.assert_close(some(x, nodes), plain, rtol=0, atol=1e-12)
    others = torch.tensor([1, 3, 4])  # not encoded: evaluated in full
    torch.testing.assert_close(some(x, others), denoise(x, others), rtol=0, atol=1e-12)


def test_low_precision_encodes_in_its_own_type() -> None:
    denoise, noise = problem(network=build("mlp").float())
    low = denoise.with_network(LowPrecision(denoise.network, torch.bfloat16)).encode()  # type: ignore[arg-type]
    assert low.encoded is not None
    assert low.encoded.dtype == torch.bfloat16
    assert low(noise.initial[None], slice(0, 1)).dtype == torch.float32
