"""Nested values: taken apart into tensors, and built again with other tensors."""

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

Fill = Callable[[Iterator[Tensor]], Any]
CONSTANT = {"sampler", "network", "head", "jacobian", "encoded_nodes"}
"""Fields of dataclasses that are the same in every solve of one solver."""


def flatten(value: Any) -> tuple[list[Tensor], Any, Fill]:
    """Take nested tuples and dataclasses apart.

    Returns:
        The tensors; what else two values must share to be filled alike, which can be hashed; and a
        function that builds the value again with other tensors.
    """
    if isinstance(value, Tensor):
        return [value], (tuple(value.shape), value.dtype), next
    if isinstance(value, tuple):
        found = [flatten(one) for one in value]
        tensors = [t for own, _, _ in found for t in own]
        kinds = tuple(kind for _, kind, _ in found)
        return tensors, kinds, lambda rest: tuple(fill(rest) for _, _, fill in found)
    if is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in fields(value) if f.name not in CONSTANT]
        tensors, kinds, fill = flatten(tuple(getattr(value, name) for name in names))

        def build(rest: Iterator[Tensor]) -> Any:
            return replace(value, **dict(zip(names, fill(rest), strict=True)))

        return tensors, kinds, build
    return [], value, lambda rest: value
