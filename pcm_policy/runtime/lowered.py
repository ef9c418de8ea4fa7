"""Programs in the operations that inference engines have fast kernels for.

Engines lay out images in blocks of channels, and sequences not: ONNX Runtime's convolution over one
axis takes two to three times the time of the same convolution over images of height 1. And an
engine without a kernel for Mish computes it by three transcendental functions; one is enough.

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


def _beside(value: _Along, height: int) -> tuple[int, int]:
    """Return the setting of an image's height and width for that of a sequence."""
    return height, value if isinstance(value, int) else value[0]


_ATEN = torch.ops.aten
REPLACED: Mapping[Any, Callable[..., Tensor]] = {
    _ATEN.conv1d.default: conv1d,
    _ATEN.conv1d.padding: conv1d,
    _ATEN.conv_transpose1d.default: conv_transpose1d,
    _ATEN.mish.default: mish,
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
