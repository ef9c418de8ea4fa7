"""Settings of steps and stops: numbers that check themselves."""

import math
from dataclasses import field, fields
from numbers import Integral, Real
from typing import Any

from pcm_policy.errors import PcmError


def setting(
    default: Any, kind: type = float, least: float = -math.inf, most: float = math.inf
) -> Any:
    """Return a dataclass field that :func:`check` checks.

    Args:
        default: None also allows None; a tuple asks for a list.
        kind: ``int`` or ``float``.
        least: smallest value.
        most: largest value.
    """
    return field(default=default, metadata={"kind": kind, "range": (least, most)})


def check(part: Any) -> None:
    """Check all settings of a frozen dataclass; lists become tuples.

    Raises:
        PcmError: a value of the wrong type, not finite, or out of its range.
    """
    for f in fields(part):
        value = getattr(part, f.name)
        if "range" not in f.metadata or (value is None and f.default is None):
            continue
        many, kind, (least, most) = isinstance(f.default, tuple), *f.metadata.values()
        given = tuple(value) if isinstance(value, list | tuple) else (value,)
        number = Integral if kind is int else Real
        fine = isinstance(value, list | tuple) == many and all(
            isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in given
        )
        if not fine or not all(least <= v <= most for v in given):
            what = "whole number" if kind is int else "number"
            bounds = "" if least == -math.inf else f" of at least {least:g}"
            bounds += "" if most == math.inf else f" and at most {most:g}"
            wanted = f"a list of {what}s, each" if many else f"a {what}"
            raise PcmError(f"solver.{f.name}={value}: give {wanted}{bounds}")
        values = tuple(kind(v) for v in given)
        object.__setattr__(part, f.name, values if many else values[0])
