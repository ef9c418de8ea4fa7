"""Reading another project's settings: every wrong one is a line that names file and key."""

from collections.abc import Mapping
from typing import Any

from pcm_policy.errors import PcmError


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
