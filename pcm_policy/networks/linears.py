"""Linear layers whose inputs broadcast, or that read one input: fewer and smaller products."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


def linears(layers: Sequence[nn.Linear], *parts: Tensor) -> Tensor:
    """Return the outputs of some layers side by side, of an input whose parts are side by side.

    A part is multiplied before it is broadcast: a solve has one condition for many steps. In a
    program that is exported the layers are one product, because an engine joins their weights when
    it loads them.

    Args:
        layers: one or more, each with a bias, of as many inputs as the parts have together.
        parts: ``(..., D_i)``, whose leading dimensions broadcast.

    Returns:
        ``(..., E)``.

    Example:
        >>> import torch
        >>> layers = [torch.nn.Linear(5, 2), torch.nn.Linear(5, 3)]
        >>> step, seen = torch.randn(4, 1, 2), torch.randn(6, 3)
        >>> linears(layers, step, seen).shape
        torch.Size([4, 6, 5])
    """
    if getattr(torch.compiler, "is_exporting", bool)():  # older torch cannot say: several products
        weight = torch.cat([layer.weight for layer in layers])
        return _product(weight, torch.cat([layer.bias for layer in layers]), parts)
    found = [_product(layer.weight, layer.bias, parts) for layer in layers]
    return found[0] if len(found) == 1 else torch.cat(found, dim=-1)


def _product(weight: Tensor, bias: Tensor, parts: Sequence[Tensor]) -> Tensor:
    begin = weight.shape[1] - parts[-1].shape[-1]
    found = linear(parts[-1], weight[:, begin:], bias)
    for part in reversed(parts[:-1]):
        end, begin = begin, begin - part.shape[-1]
        found = linear(part, weight[:, begin:end]) + found
    return found
