"""Reading another project's settings: every wrong one is a line that names file and key."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pcm_policy.errors import PcmError

_WRONG = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError)


@contextmanager
def translating(file: str) -> Iterator[None]:
    """Make one line of whatever settings of a wrong type or size lead to.

    A checkpoint may hold any data in place of what its project writes. Only reading and building
    happen inside: nothing that a defect of ours elsewhere could hide in.
    """
    try:
        yield
    except _WRONG as error:
        text = " ".join(str(error).split())
        if isinstance(error, PcmError):
            raise PcmError(text if file in text else f"{file}: {text}") from error
        raise PcmError(
            f"{file} holds something of the wrong kind or size ({type(error).__name__}: "
            f"{text[:200]}): it is damaged, or from a version that is not known here"
        ) from error


class Settings:
    """Nested plain settings of one file, read by dotted keys."""

    def __init__(self, file: str, values: Any) -> None:
        if not isinstance(values, Mapping):
            raise PcmError(f"{file} holds no config: it is no checkpoint that can be imported")
        self.file, self.values = file, values

    def get(self, key: str, kind: Any, default: Any = ...) -> Any:
        """Return the setting ``key``, which must be a ``kind``.

        Raises:
            PcmError: it is missing and there is no default, of another type, or a reference that
                was never resolved.
        """
        value: Any = self.values
        for part in key.split("."):
            value = value.get(part, ...) if isinstance(value, Mapping) else ...
        value = default if value is ... else value
        if value is ...:
            raise PcmError(f"{self.file}: config lacks {key}: it cannot be imported")
        if isinstance(value, str) and "${" in value:
            raise PcmError(f"{self.file}: config has {key}={value!r}, a reference never resolved")
        if value is default or (isinstance(value, kind) and not (kind is int and value is True)):
            return value
        raise PcmError(f"{self.file}: config has {key}={value!r}, which is not expected")

    def count(self, key: str) -> int:
        """Return a setting that is a positive integer."""
        value: int = self.get(key, int)
        if value < 1:
            raise PcmError(f"{self.file}: config has {key}={value}, expected at least 1")
        return value

    def refuse(self, key: str, value: Any, why: str, default: Any = None) -> None:
        """Raise PcmError if the setting ``key`` is not ``value``, where absent means default."""
        found = self.get(key, object, default)
        if found != value:
            raise PcmError(f"{self.file}: config has {key}={found!r}: {why}")
