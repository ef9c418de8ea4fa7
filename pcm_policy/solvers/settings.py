"""Settings of steps and stops: numbers that check themselves."""

from dataclasses import dataclass, field, fields
from typing import Any

from pcm_policy.checks import number, whole
from pcm_policy.errors import PcmError


def setting(default: Any, kind: type = float, said: str = "", **bounds: float) -> Any:
    """Return a dataclass field that :class:`Settings` checks.

    Args:
        default: None also allows None; a tuple asks for a list.
        kind: ``int`` or ``float``.
        said: what ``solver.NAME`` calls it, if not as the field.
        bounds: as :func:`pcm_policy.checks.number` takes them.
    """
    return field(default=default, metadata={"kind": kind, "said": said, "bounds": bounds})


@dataclass(frozen=True)
class Settings:
    """A frozen dataclass that checks its settings when it is made; lists become tuples.

    Raises:
        PcmError: a value of the wrong type, not finite, or out of its range.
    """

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if "kind" not in f.metadata or (value is None and f.default is None):
                continue
            read: Any = whole if f.metadata["kind"] is int else number
            name, usual = f"solver.{f.metadata['said'] or f.name}", f.default
            given = value if isinstance(usual, tuple) else [value]
            if not isinstance(given, list | tuple):
                raise PcmError(f"{name}={value!r}: use a list of numbers, such as {usual}")
            found = tuple(read(name, v, **f.metadata["bounds"]) for v in given)
            object.__setattr__(self, f.name, found if isinstance(usual, tuple) else found[0])
