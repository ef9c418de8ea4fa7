"""Parts by name: what ``solver.method=...``, ``network.name=...`` and the like may say.

A part of this package registers itself under a word. A part of yours is ``module:Name``, where
``module`` can be imported: it is installed, lies in the working directory or on ``PYTHONPATH``.
"""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Generic, TypeVar

from pcm_policy.errors import PcmError

T = TypeVar("T")


class Registry(Generic[T]):
    """Parts of one kind, in the order in which they were registered.

    Args:
        kind: what they are, for messages: "solver", "network".
        base: the class that all derive from; None for functions.
    """

    def __init__(self, kind: str, base: type | None = None) -> None:
        self.kind, self.base = kind, base
        self._parts: dict[str, T] = {}

    def add(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers what it is put on."""

        def register(part: T) -> T:
            self._parts[name] = part
            return part

        return register

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def name(self, part: Any) -> str:
        """Return the word for a part: its registered name, or ``module:Name``."""
        known = (name for name, own in self._parts.items() if own is part)
        return next(known, f"{part.__module__}:{part.__qualname__}")

    def find(self, name: Any, import_it: bool = True) -> T:
        """Return a part.

        Args:
            name: a registered name, or ``module:Name``.
            import_it: whether ``module`` may be imported; False where the name was read from a
                file that somebody else may have written.

        Raises:
            PcmError: an unknown name, or a module that is not there or may not be imported.
        """
        if isinstance(name, str) and name in self._parts:
            return self._parts[name]
        module, _, own = name.partition(":") if isinstance(name, str) else ("", "", "")
        if not own:
            raise PcmError(
                f"unknown {self.kind} {name!r}: use one of {', '.join(self._parts)}, or module:Name"
            )
        if module not in sys.modules:
            if not import_it:
                raise PcmError(
                    f"{self.kind} {name}: a file may not choose what is imported; import {module} "
                    "first: plugins=MODULE does so in a command"
                )
            _import(self.kind, module)
        part: Any = getattr(sys.modules[module], own, None)
        fits = callable(part)
        if self.base is not None:
            fits = isinstance(part, self.base)
            fits = fits or (isinstance(part, type) and issubclass(part, self.base))
        if not fits:
            wanted = "function" if self.base is None else self.base.__name__
            raise PcmError(f"{self.kind} {name}: {module} has no {wanted} of that name")
        found: T = part
        return found


def _import(kind: str, module: str) -> None:
    """Import a module of the user's; the working directory is searched as well."""
    if "" not in sys.path:
        sys.path.append("")
    try:
        import_module(module)
    except ImportError as error:
        raise PcmError(
            f"{kind} {module}: {error}; it must be installed, in the working directory or on "
            "PYTHONPATH"
        ) from error
