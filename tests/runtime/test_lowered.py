"""A lowered module computes what the module does."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pcm_policy.export import FixedSolve, example
from pcm_policy.networks import NETWORKS, build_network
from pcm_policy.networks.camera import CameraEncoder
from pcm_policy.networks.clip import TowerConfig
from pcm_policy.runtime.lowered import REPLACED, conv1d, conv_transpose1d, lowered, mish, resize
from pcm_policy.runtime.precision import LowPrecision
from tests.builders import small_policy

CLOSE = {torch.float32: 1e-6, torch.float64: 1e-12}
GRID = list(itertools.product((1, 3, 4), (1, 2), (0, 1, 2), (1, 2), (1, 2), (False, True)))
"""Kernel, stride, padding, dilation, groups, bias."""


@pytest.fixture(params=list(CLOSE), ids=str)
def dtype(request: Any) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def close(found: Tensor, want: Tensor) -> None:
    """Both are the same within rounding of their scale."""
    scale = max(1.0, float(want.abs().max()))
    assert found.dtype == want.dtype
    torch.testing.assert_close(found, want, rtol=0, atol=CLOSE[want.dtype] * scale)


def operations(program: ExportedProgram) -> set[str]:
    """The operations of a program, with those in the bodies of its loops."""
    graphs = [m.graph for m in program.graph_module.modules() if isinstance(m, GraphModule)]
    return {str(n.target) for graph in graphs for n in graph.nodes if n.op == "call_function"}


def same(module: nn.Module, *given: Tensor) -> None:
    """The lowered module's output is the module's, and it has none of what is replaced."""
    with torch.no_grad():
        program = torch.export.export(module, given, strict=False)
        found = lowered(program)
        assert not operations(found) & {str(one) for one in REPLACED}
        close(found.module()(*given), module(*given))
        close(program.module()(*given), module(*given))  # the given one stays


@pytest.mark.parametrize("batched", [True, False])
def test_convolutions_of_every_shape(dtype: torch.dtype, batched: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    for kernel, stride, padding, dilation, groups, bias in GRID:
        x = torch.randn(3, 4, 11, generator=generator, dtype=dtype)
        x = x if batched else x[0]
        w = torch.randn(6, 4 // groups, kernel, generator=generator, dtype=dtype)
        b = torch.randn(6, generator=generator, dtype=dtype) if bias else None
        options = [x, w, b, [stride], [padding], [dilation], groups]
        close(conv1d(*options), torch.conv1d(*options))
        w = torch.randn(4, 6 // groups, kernel, generator=generator, dtype=dtype)
        for more in range(max(stride, dilation)):
            options = [x, w, b, [stride], [padding], [more], groups, [dilation]]
            close(conv_transpose1d(*options), torch.conv_transpose1d(*options))


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_paddings_by_name(dtype: torch.dtype, padding: str) -> None:
    x, w = torch.randn(3, 4, 11, dtype=dtype), torch.randn(6, 4, 4, dtype=dtype)
    for dilation in (1, 2):
        given: Any = (x, w, None, 1, padding, dilation)
        close(conv1d(*given), torch.conv1d(*given))


def test_defaults_and_numbers() -> None:
    x, w = torch.randn(2, 4, 9), torch.randn(4, 4, 3)
    close(conv1d(x, w), torch.conv1d(x, w))
    close(conv1d(x, w, stride=2), torch.conv1d(x, w, stride=2))
    close(conv_transpose1d(x, w), torch.conv_transpose1d(x, w))


@pytest.mark.parametrize("aligned", [False, True])
def test_images_of_every_size(dtype: torch.dtype, aligned: bool) -> None:
    """Smaller, larger and as they are, by a size and by factors.

    Not to one column, where torch 2.13 itself mixes up the pixels:
    ``findings/torch_resizes_wrongly_to_one_column.sh``.
    """
    x = torch.randn(2, 3, 13, 20, generator=torch.Generator().manual_seed(0), dtype=dtype)
    options: list[Any] = [([n, m], None) for n in (1, 5, 13, 29) for m in (2, 7, 20, 33)]
    for size, factors in [*options, (None, [0.4, 1.7])]:
        given: Any = (x, size, aligned, factors)
        want = torch.ops.aten._upsample_bilinear2d_aa.vec(*given)
        torch.testing.assert_close(resize(*given), want, rtol=0, atol=5 * CLOSE[dtype])


def test_a_resize_is_lowered() -> None:
    same(Resized().double(), torch.randn(2, 3, 13, 20, dtype=torch.float64))


class Resized(nn.Module):
    """A resize as camera encoders have it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(B, C, 9, 16)``."""
        return nn.functional.interpolate(x, (9, 16), mode="bilinear", antialias=True)


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
    torch.testing.assert_close(mish(x), nn.functional.mish(x), rtol=0.01, atol=1e-7)


def test_mish_of_all_numbers(dtype: torch.dtype) -> None:
    x = everywhere(dtype)
    want = nn.functional.mish(x.double())
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(
        mish(x).double(), want, rtol=8 * step, atol=torch.finfo(dtype).tiny * 128
    )
    torch.testing.assert_close(mish(x), nn.functional.mish(x), rtol=16 * step, atol=1e-36)


def test_mish_of_what_is_no_number_is_torchs() -> None:
    x = torch.tensor([-torch.inf, torch.nan])
    assert torch.equal(mish(x).isnan(), nn.functional.mish(x).isnan())


class Own(nn.Module):
    """A network of one's own, which calls functions."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.decode(x, self.encode(t, cond))

    def encode(self, t: Tensor, cond: Tensor) -> Tensor:
        return nn.functional.mish(t[..., None].to(cond) + cond, inplace=True)

    def decode(self, x: Tensor, encoded: Tensor) -> Tensor:
        kernel = encoded.mean(0).view(1, 1, -1).expand(2, 1, -1)
        h = torch.conv1d(x.mT, kernel, padding="same", groups=2)
        return nn.functional.conv_transpose1d(h, kernel, padding=2, groups=2)[..., :8].mT


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 8, 2, generator=generator).to(dtype)
    cond = torch.randn(3, 6, generator=generator).to(dtype)
    return x, torch.tensor([0, 7, 99]), cond


OPTIONS: dict[str, dict[str, Any]] = {
    "mlp": {"width": 16, "depth": 1},
    "unet1d": {"down_dims": (8, 16), "step_embed_dim": 8},
    "transformer": {"n_emb": 16, "n_head": 2, "n_layer": 1},
    "dit": {"width": 16, "heads": 2, "depth": 1, "fixed_dim": 3},
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_network(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 2, 8, 6, OPTIONS[name]).eval()
    for weight in network.parameters():  # new output layers are zero
        nn.init.normal_(weight, std=0.05)
    same(network, *batch())


def test_a_network_of_ones_own_and_its_copy_in_low_precision() -> None:
    same(Own(), *batch())
    low, given = LowPrecision(Own(), torch.bfloat16), batch()
    found = lowered(torch.export.export(low, given, strict=False))
    assert not operations(found) & {str(one) for one in REPLACED}
    torch.testing.assert_close(found.module()(*given), low(*given), rtol=0.02, atol=0.02)


def test_modules_with_paddings_of_every_kind() -> None:
    kinds = [nn.Conv1d(2, 2, 3, padding=1, padding_mode=mode) for mode in ("zeros", "circular")]
    same(nn.Sequential(*kinds, nn.Mish(inplace=True)), torch.randn(2, 2, 8))


@pytest.mark.parametrize(
    "options",
    [
        ("resnet18", "group", 8, 16),
        ("clip", "layer", 0, 0, TowerConfig(12, 2, 2, 20, patch=8, positions=17)),
    ],
    ids=["resnet", "clip"],
)
def test_the_camera_encoder(options: tuple[Any, ...]) -> None:
    encoder = CameraEncoder((40, 40), None, (32, 32), *options).eval()
    same(encoder, torch.rand(2, 3, 40, 40))


def test_the_body_of_a_loop_is_lowered() -> None:
    """The steps of a sequential solve, which are one loop."""
    policy = small_policy("unet1d")
    solver = policy.solver({"method": "sequential"})
    module, given = FixedSolve(policy, solver), tuple(example(policy, solver, 1, 0).values())
    with torch.no_grad():
        program = torch.export.export(module, given, strict=False)
    assert "scan" in operations(program)
    assert operations(program) & {str(one) for one in REPLACED}
    assert not operations(lowered(program)) & {str(one) for one in REPLACED}


def test_what_has_nothing_to_replace_is_returned_itself() -> None:
    """To trace it once more takes a third of the time that a recording takes."""
    policy = small_policy("mlp", "window")
    solver = policy.solver({"method": "pcm", "rounds": 1})
    module, given = FixedSolve(policy, solver), tuple(example(policy, solver, 1, 0).values())
    with torch.no_grad():
        program = torch.export.export(module, given, strict=False)
    assert lowered(program) is program


@pytest.mark.parametrize("inplace", [True, False])
def test_mish_alone_is_found(inplace: bool) -> None:
    same(nn.Sequential(nn.Linear(3, 4), nn.Mish(inplace=inplace)), torch.randn(2, 3))
