"""What tensors a config describes, found without their memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from pcm_policy.errors import PcmError
from pcm_policy.policy.config import PolicyConfig

if TYPE_CHECKING:
    from pcm_policy.policy.policy import DiffusionPolicy

    Build = Callable[[PolicyConfig], DiffusionPolicy]


def layout(config: PolicyConfig, name: str, entries: int, build: "Build") -> dict[str, Tensor]:
    """Return the names, shapes and types of a policy's tensors, without their memory.

    A config may name any size and any depth: no more is built than a file of so many entries could
    hold.

    Args:
        config: of the policy.
        name: of its file, for messages.
        entries: tensors that there are.
        build: makes the policy of a config.

    Raises:
        PcmError: a network or head that cannot be built, or one of far more tensors.
    """
    try:
        with torch.device("meta"), _Unfilled(), float32_by_default(), _at_most(4 * entries + 1000):
            return dict(build(config).state_dict())
    except PcmError as error:
        raise PcmError(f"{name}: {error}") from error
    except Exception as error:  # torch raises half a dozen kinds for sizes that are none
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PcmError(f"{name} describes no policy that can be built ({reason})") from error


class _Unfilled(TorchFunctionMode):
    """Leave normal draws out: tensors without memory have no values.

    Drawing for such a tensor makes torch import its compiler and sympy, 80 MB.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if getattr(function, "__name__", "") == "normal_":
            return args[0] if args else given["tensor"]
        return function(*args, **given)


@contextmanager
def float32_by_default() -> Iterator[None]:
    """Build modules in float32, whatever the caller's default type is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _at_most(most: int) -> Iterator[None]:
    """Refuse to build more than so many parameters, in this thread."""
    thread, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > most:
            raise PcmError(f"it describes more than {most} weights, which its file does not hold")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
