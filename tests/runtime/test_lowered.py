"""A lowered module computes what the module does."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pcm_policy.networks import NETWORKS, build_network
from pcm_policy.networks.camera import CameraEncoder
from pcm_policy.runtime import lowered
from pcm_policy.runtime.execute import LowPrecision
from pcm_policy.runtime.lowered import Lowered

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}
GRID = list(itertools.product((1, 3, 4), (1, 2), (0, 1, 2), (1, 2), (1, 2), (False, True)))
"""Kernel, stride, padding, dilation, groups, bias."""


@pytest.fixture(params=list(CLOSE), ids=str)
def dtype(request: Any) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def same(module: nn.Module, *given: Tensor) -> None:
    """The lowered module's output is the module's, within rounding of its scale."""
    with torch.no_grad():
        want, found = module(*given), Lowered(module)(*given)
    scale = max(1.0, float(want.abs().max()))
    assert found.dtype == want.dtype
    torch.testing.assert_close(found, want, rtol=0, atol=CLOSE[want.dtype] * scale)


@pytest.mark.parametrize("batched", [True, False])
def test_convolutions_of_every_shape(dtype: torch.dtype, batched: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, padding, dilation, groups, bias in GRID:
        x = torch.randn(3, 4, 11, generator=generator, dtype=dtype)
        x = x if batched else x[0]
        options = {"dilation": dilation, "groups": groups, "bias": bias, "dtype": dtype}
        same(nn.Conv1d(4, 6, kernel, stride, padding, **options), x)
        for more in range(max(stride, dilation)):
            up = nn.ConvTranspose1d(4, 6, kernel, stride, padding, more, **options)
            same(up, x)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", 2])
def test_paddings_by_name(dtype: torch.dtype, padding: Any, mode: str) -> None:
    conv = nn.Conv1d(4, 6, 4, padding=padding, padding_mode=mode, dtype=dtype)
    same(conv, torch.randn(3, 4, 11, dtype=dtype))


def test_calls_with_names_lists_and_defaults() -> None:
    x, w = torch.randn(2, 4, 9), torch.randn(4, 4, 3)
    for call, options in (
        (torch.conv1d, {"padding": [1]}),
        (torch.conv1d, {"stride": (2,), "groups": 1, "bias": torch.randn(4)}),
        (nn.functional.conv_transpose1d, {"output_padding": [1], "stride": [2]}),
    ):
        with lowered._Calls():
            found = call(input=x, weight=w, **options)
        torch.testing.assert_close(found, call(input=x, weight=w, **options), rtol=0, atol=1e-5)


def everywhere(dtype: torch.dtype) -> Tensor:
    """Numbers of every size and sign, zeros, the largest and the smallest, and infinity."""
    limits = torch.finfo(dtype)
    size = torch.logspace(-37, 38, 4001, dtype=torch.float64).clamp(limits.tiny, limits.max)
    near = torch.linspace(0, 120, 24001, dtype=torch.float64)
    ends = torch.tensor([0.0, limits.tiny, limits.max], dtype=torch.float64)
    found = torch.cat([size, near, ends]).to(dtype)
    return torch.cat([found, -found, torch.tensor([torch.inf], dtype=dtype)])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_mish_of_half_precision(half: torch.dtype) -> None:
    x = everywhere(half)
    torch.testing.assert_close(lowered.mish(x), nn.functional.mish(x), rtol=0.01, atol=1e-7)


def test_mish_of_all_numbers(dtype: torch.dtype) -> None:
    x = everywhere(dtype)
    want = nn.functional.mish(x.double())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(
        lowered.mish(x).double(), want, rtol=8 * step, atol=torch.finfo(dtype).tiny * 128
    )
    torch.testing.assert_close(lowered.mish(x), nn.functional.mish(x), rtol=16 * step, atol=1e-36)


def test_mish_of_what_is_no_number_is_torchs() -> None:
    x = torch.tensor([-torch.inf, torch.nan])
    assert torch.equal(lowered.mish(x).isnan(), nn.functional.mish(x).isnan())


def test_mish_in_place() -> None:
    x = torch.randn(5)
    want = nn.functional.mish(x)
    found = Lowered(nn.Mish(inplace=True))(x)
    assert found is x
    torch.testing.assert_close(x, want)


def batch(network: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 16, 2, generator=generator).to(dtype)
    cond = torch.randn(3, 6, generator=generator).to(dtype)
    return x, torch.tensor([0, 7, 99]), cond


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    network = build_network(name, 2, 16, 6, {}).to(dtype).eval()
    for weight in network.parameters():  # new output layers are zero
        nn.init.normal_(weight, std=0.05)
    before = copy.deepcopy(network.state_dict())
    same(network, *batch(network, dtype))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_the_camera_encoder() -> None:
    encoder = CameraEncoder((40, 40), (36, 36), (32, 32), "resnet18", "group", 8, 16).eval()
    same(encoder, torch.rand(2, 3, 40, 40))


def test_a_copy_in_low_precision_and_a_network_of_ones_own() -> None:
    class Own(nn.Module):
        def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
            return self.decode(x, self.encode(t, cond))

        def encode(self, t: Tensor, cond: Tensor) -> Tensor:
            return nn.functional.mish(t[..., None].to(cond) + cond)

        def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
            kernel = encoded.mean(0).view(1, 1, -1).expand(2, 1, -1)
            return torch.conv1d(x.mT, kernel, padding="same", groups=2).mT

    network = Own()
    given = batch(network, torch.float32)
    same(network, *given)
    low = LowPrecision(network, torch.bfloat16)
    torch.testing.assert_close(Lowered(low)(*given), low(*given), rtol=0.02, atol=0.02)


def test_nothing_that_is_replaced_is_left_in_a_recording() -> None:
    network = build_network("unet1d", 2, 16, 6, {"down_dims": (8, 16), "step_embed_dim": 8}).eval()
    given = batch(network, torch.float32)
    calls = {}
    for module in (network, Lowered(network)):
        program = torch.export.export(module, given, strict=False)
        calls[module] = {str(n.target) for n in program.graph.nodes if n.op == "call_function"}
    plain, found = calls.values()
    for name in ("conv1d", "conv_transpose1d", "mish"):
        assert any(name in one for one in plain)
        assert not any(name in one for one in found)
