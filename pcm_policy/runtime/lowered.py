"""Programs in the operations that inference engines have fast kernels for.

Engines lay out images in blocks of channels, and sequences not: ONNX Runtime's convolution over one
axis takes two to three times the time of the same convolution over images of height 1. An engine
without a kernel for Mish computes it by three transcendental functions; one is enough. And OpenVINO
makes images smaller without the smoothing that a graph asks for, and does not say so: a resize is
two products of matrices.

What is replaced is found by its operation, in the whole program: a network of one's own is lowered
like those of this package, and so are heads, camera encoders and the bodies of loops.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

_SATURATED = 20.0
"""From here up ``mish(x)`` is ``x`` in float64 and below."""
_Along = int | Sequence[int]


def mish(x: Tensor) -> Tensor:
    """Return ``x tanh(log(1 + e^x))`` by one exponential.

    With ``e = exp(x)`` and ``n = e (e + 2)`` it is ``x n / (n + 2)``.

    Args:
        x: any shape; half precision is computed in float32, as torch does.
    """
    wide = x.float() if x.dtype.itemsize < 4 else x
    e = wide.clamp(max=_SATURATED).exp()
    n = e * (e + 2)
    return (wide * (n / (n + 2))).to(x.dtype)  # the quotient first: the product can overflow


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Along = 1,
    padding: _Along | str = 0,
    dilation: _Along = 1,
    groups: int = 1,
) -> Tensor:
    """Return ``torch.conv1d`` of the same arguments, as a convolution over images of height 1."""
    beside = padding if isinstance(padding, str) else _beside(padding, 0)
    found = F.conv2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        _beside(stride, 1),
        beside,
        _beside(dilation, 1),
        groups,
    )
    return found.squeeze(-2)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Along = 1,
    padding: _Along = 0,
    output_padding: _Along = 0,
    groups: int = 1,
    dilation: _Along = 1,
) -> Tensor:
    """Return ``torch.conv_transpose1d`` of the same arguments, over images of height 1."""
    found = F.conv_transpose2d(
        input.unsqueeze(-2),
        weight.unsqueeze(-2),
        bias,
        _beside(stride, 1),
        _beside(padding, 0),
        _beside(output_padding, 0),
        groups,
        _beside(dilation, 1),
    )
    return found.squeeze(-2)


def resize(
    input: Tensor,
    output_size: Sequence[int] | None,
    align_corners: bool = False,
    scale_factors: Sequence[float] | None = None,
) -> Tensor:
    """Return ``interpolate(..., mode="bilinear", antialias=True)`` of the same arguments.

    Args:
        input: ``(B, C, H, W)``.
        output_size: height and width; or None, with the factors.
        align_corners: whether the outer pixels' centres stay where they are.
        scale_factors: of height and width; or None, with the size.
    """
    old, factors = input.shape[2:], scale_factors or (None, None)
    new = output_size or [int(n * f) for n, f in zip(old, factors, strict=True) if f]
    ratios = [1 / f if f else n / m for n, m, f in zip(old, new, factors, strict=True)]
    if align_corners:
        ratios = [(n - 1) / (m - 1) if m > 1 else 0.0 for n, m in zip(old, new, strict=True)]
    rows, columns = (
        resize_matrix(n, m, ratio, input.dtype)
        for n, m, ratio in zip(old, new, ratios, strict=True)
    )
    return rows @ (input @ columns.T)


def resize_matrix(old: int, new: int, ratio: float, dtype: torch.dtype) -> Tensor:
    """Return ``(new, old)``: how much of every old pixel is in a new one, rounded as torch rounds.

    The weights are a triangle around the new pixel's place. It reaches as far as one old pixel, or
    one new one where that is larger.

    Args:
        old: pixels in a row or a column.
        new: the same, afterwards.
        ratio: old pixels from one new pixel to the next.
        dtype: of the weights.
    """
    centre = (torch.arange(new, dtype=dtype) + 0.5) * ratio
    place = torch.arange(old, dtype=dtype)
    share = (1 - (place - centre[:, None] + 0.5).abs() / max(ratio, 1)).clamp(min=0)
    return share / share.sum(1, keepdim=True)


def _beside(value: _Along, height: int) -> tuple[int, int]:
    """Return the setting of an image's height and width for that of a sequence."""
    return height, value if isinstance(value, int) else value[0]


_ATEN = torch.ops.aten
REPLACED: Mapping[Any, Callable[..., Tensor]] = {
    _ATEN.conv1d.default: conv1d,
    _ATEN.conv1d.padding: conv1d,
    _ATEN.conv_transpose1d.default: conv_transpose1d,
    _ATEN.mish.default: mish,
    _ATEN._upsample_bilinear2d_aa.vec: resize,
}
"""Operations, and what is computed in their place."""
_IN_PLACE = {_ATEN.mish_.default}
"""Those that a trace has in their stead, before it is decomposed."""


def lowered(program: ExportedProgram) -> ExportedProgram:
    """Return a program that computes the same in the operations above; the given one stays.

    One that has nothing to replace is returned itself: to trace it again takes seconds.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Conv1d(3, 4, 5, padding=2), torch.nn.Mish())
        >>> x = torch.randn(2, 3, 16)
        >>> found = lowered(torch.export.export(net, (x,))).module()
        >>> torch.allclose(found(x), net(x), atol=1e-6)
        True
    """
    if not _has_replaced(program):
        return program
    found: ExportedProgram = program.run_decompositions(dict(REPLACED))
    return found


def _has_replaced(program: ExportedProgram) -> bool:
    """Return whether an operation to replace is in the program, or in the body of a loop of it."""
    graphs = (one.graph for one in program.graph_module.modules() if isinstance(one, GraphModule))
    sought = {*REPLACED, *_IN_PLACE}
    return any(node.target in sought for graph in graphs for node in graph.nodes)
