"""A stand-in for a GPU on a machine without one. It has never been compared with a real GPU.

torch lets Python register a device that does nothing; fake tensors on it have shapes and devices
and no values, while tensors of the host stay real. So three mistakes that a CPU never shows raise
here at once:

- tensors of different devices in one operation, an error on a GPU;
- a read-back (``item``, ``bool``, ``nonzero``, a copy to the host), for which a GPU's queue has to
  run empty, and which cannot be captured in a CUDA graph;
- a tensor made from host data (``torch.tensor``, ``.to(device)``), which waits for the copy, and is
  an illegal operation while a CUDA graph is captured.

What it cannot show: wrong values, operations that a backend lacks, streams, memory, speed.

The device is registered for the whole process, once this is imported: tests run it in a process of
its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("gpu")
DEVICE = torch.device("gpu", 0)
DYNAMIC = ("aten.nonzero", "aten.masked_select", "aten.unique", "aten._unique")
"""Operations whose result's size is on the device."""
READING = ("aten._local_scalar_dense", "aten.item", "aten.is_nonzero")
COPYING = ("aten._to_copy", "aten.to.", "aten.copy_")
INDEXING = ("aten.index", "aten.index_put", "aten._index_put")
"""Operations that take indices of the host, and copy them."""


FACTORIES = (torch.tensor, torch.as_tensor)


class Stall(AssertionError):
    """An operation that the device has to wait for, or that waits for the device."""


class HostData(TorchFunctionMode):
    """Let ``torch.tensor`` make its tensor on the host first, so that the copy is seen."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = dict(kwargs or {})
        if func in FACTORIES and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class Accelerator(TorchDispatchMode):
    """Everything that happens on the simulated device.

    What is read back, where that is allowed, is zero.

    Attributes:
        reads: whether the device may be read back.
        copies: whether host data may be copied to it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.reads = self.copies = True

    @contextmanager
    def allow(self, *, reads: bool = False, copies: bool = False) -> Iterator[None]:
        """Refuse read-backs and copies from the host, unless allowed."""
        before = self.reads, self.copies
        self.reads, self.copies = reads, copies
        try:
            yield
        finally:
            self.reads, self.copies = before

    def empty(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Return a tensor on the device."""
        with self.fake:
            return torch.empty(shape, dtype=dtype, device=DEVICE)

    def put(self, value: Any) -> Any:
        """Return a copy on the device: of a tensor, or of a dataclass of tensors."""
        if isinstance(value, Tensor):
            return self.empty(value.shape, value.dtype)
        if is_dataclass(value) and not isinstance(value, type):
            parts = {k: self.put(v) for k, v in vars(value).items() if isinstance(v, Tensor)}
            return replace(value, **parts)
        return value

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation of the host as it is, one of the device on fakes."""
        name, kwargs = str(func), kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = any(t.device.type == "gpu" for t in tensors)
        to_device = any(
            isinstance(v, torch.device) and v.type == "gpu" for v in (*args, *kwargs.values())
        )
        if not on_device and not to_device:
            return func(*args, **kwargs)
        if name.startswith(COPYING):
            return self._copy(func, name, args, kwargs)
        if name.startswith(READING):
            self._read(name)
            return torch.zeros((), dtype=args[0].dtype).item()
        if name.startswith("aten.equal."):
            self._read(name)
            return False
        if name.startswith(DYNAMIC):
            self._read(name)
            return self.empty((0, args[0].ndim), torch.int64)
        mixed = any(t.device.type != "gpu" and t.ndim for t in tensors)
        if mixed and not (self.copies and name.startswith(INDEXING)):
            raise Stall(f"{name} mixes tensors of the host and of the device")
        with self.fake:
            return func(*args, **kwargs)

    def _copy(self, func: Any, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Copy between host and device, or on the device."""
        into = name.startswith("aten.copy_")
        source, goal = (args[1], args[0].device) if into else (args[0], args[0].device)
        dtype = source.dtype
        for given in (*args[1:], *kwargs.values()):
            if isinstance(given, torch.device | Tensor) and not into:
                goal = given if isinstance(given, torch.device) else given.device
            dtype = given if isinstance(given, torch.dtype) else dtype
        if goal.type == source.device.type:
            with self.fake:
                return func(*args, **kwargs)
        if goal.type == "gpu":
            if not self.copies:
                raise Stall(f"a tensor {tuple(source.shape)} is made from host data")
            return args[0] if into else self.empty(source.shape, dtype)
        self._read(name)
        return args[0].zero_() if into else torch.zeros(source.shape, dtype=dtype)

    def _read(self, name: str) -> None:
        if not self.reads:
            raise Stall(f"{name} reads the device")


def _apply(module: nn.Module, function: Any, recurse: bool = True) -> nn.Module:
    """Do what ``nn.Module._apply`` does, which cannot replace fake parameters."""
    for child in module.children() if recurse else ():
        child._apply(function)
    for name, weight in module._parameters.items():
        if weight is not None and (value := function(weight.detach())) is not weight:
            module._parameters[name] = nn.Parameter(value, weight.requires_grad)
    for name, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[name] = function(buffer)
    return module


@contextmanager
def accelerator() -> Iterator[Accelerator]:
    """Simulate the device until the end of the block."""
    replaced = nn.Module._apply
    nn.Module._apply = _apply  # type: ignore[method-assign,assignment]
    try:
        with HostData(), Accelerator() as found:
            yield found
    finally:
        nn.Module._apply = replaced  # type: ignore[method-assign]


def places(module: nn.Module) -> set[str]:
    """Return the devices of all parameters and buffers."""
    return {t.device.type for t in (*module.parameters(), *module.buffers())}
