"""Checks of settings: a value has the type and lies in the range that its name needs.

Every comparison is written so that NaN fails it. Numbers are never made of texts or of yes and no.
"""

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pcm_policy.errors import PcmError

LARGEST = 2**31 - 1
LARGEST_SEED = 2**63 - 1
MOST_STEPS = 10_000  # of a horizon, a delay, a queue


def number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> float:
    """Return a real number in a range.

    Args:
        name: of the setting, for the message.
        value: what was given.
        least: smallest value allowed.
        most: largest value allowed.
        above: the value must be larger than this.
        below: the value must be smaller than this.
        finite: whether infinity is refused; NaN always is.

    Raises:
        PcmError: a text, yes or no, NaN, or a number outside the range.
    """
    found = math.nan
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            found = float(value)
        except OverflowError:  # an integer of more than 308 digits
            found = math.nan
    inside = least <= found <= most and (math.isfinite(found) or not finite)
    if not (inside and (above is None or found > above) and (below is None or found < below)):
        wanted = "a finite number" if finite else "a number"
        raise PcmError(f"{name}={_short(value)}: use {wanted}{_range(least, most, above, below)}")
    return found


def text(name: str, value: Any, most: int = 1000) -> str:
    """Return a text of bounded length.

    Raises:
        PcmError: no text, or a longer one.
    """
    if not isinstance(value, str) or len(value) > most:
        raise PcmError(f"{name}={_short(value)}: use a text of at most {most} characters")
    return value


def whole(name: str, value: Any, least: int = 0, most: int = LARGEST) -> int:
    """Return a whole number in a range.

    Raises:
        PcmError: no whole number (``3.0`` is none), or one outside the range.
    """
    found = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if found is None or not least <= found <= most:
        raise PcmError(f"{name}={_short(value)}: use a whole number from {least} to {most}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return a truth value.

    Raises:
        PcmError: anything but true and false; ``"no"`` would count as true.
    """
    if not isinstance(value, bool | np.bool_):
        raise PcmError(f"{name}={_short(value)}: use true or false")
    return bool(value)


def one_of(name: str, value: Any, allowed: Collection[str]) -> str:
    """Return one of several words.

    Raises:
        PcmError: another word, or no word.
    """
    if not isinstance(value, str) or value not in allowed:
        raise PcmError(f"{name}={_short(value)}: use one of {', '.join(allowed)}")
    return value


def numbers(name: str, values: ArrayLike) -> NDArray[Any]:
    """Return an array of real numbers of any shape, in the type that it came in.

    Raises:
        PcmError: texts, ragged lists, complex numbers, or objects that are no numbers.
    """
    try:
        found = np.asarray(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise PcmError(f"{name}: not an array of numbers ({error})") from error
    if found.dtype.kind not in "biuf":
        raise PcmError(f"{name}: not an array of real numbers, but of {found.dtype}")
    return found


def vector(name: str, values: Any, *, finite: bool = True) -> NDArray[np.float64]:
    """Return a number or a list of numbers as float64, ``()`` or ``(n,)``.

    Raises:
        PcmError: no numbers, more than one axis, none at all, NaN, or infinity where it is refused.
    """
    found = numbers(name, values)
    if found.ndim > 1 or found.size == 0 or found.dtype.kind == "b":
        raise PcmError(f"{name}={_short(values)}: use a number, or a list of them")
    result = found.astype(np.float64)
    if np.isnan(result).any() or (finite and not np.isfinite(result).all()):
        wanted = "finite numbers" if finite else "numbers, not NaN"
        raise PcmError(f"{name}={_short(result.tolist())}: use {wanted}")
    return result


def check_range(name: str, low: NDArray[np.floating[Any]], high: NDArray[np.floating[Any]]) -> None:
    """Refuse the ends of a range that no value could be compared with.

    Args:
        name: of what is in the range, for the message.
        low: ``(D,)`` smallest values; ``-inf`` where nothing is known.
        high: ``(D,)`` largest values; ``inf`` where nothing is known.

    Raises:
        PcmError: NaN, low above high, or infinity at one end alone, which would let anything pass
            at the other.
    """
    known = np.isfinite(low) & np.isfinite(high) & (low <= high)
    unknown = np.isneginf(low) & np.isposinf(high)
    bad = np.flatnonzero(~(known | unknown))
    if len(bad):
        at = int(bad[0])
        raise PcmError(
            f"{name} has no range in dimension {at}: low {low[at]}, high {high[at]}; need "
            "low <= high, both finite, or -inf and inf where nothing is known"
        )


def _range(least: float, most: float, above: float | None, below: float | None) -> str:
    lower = f"above {above:g}" if above is not None else f"from {least:g}"
    upper = f"below {below:g}" if below is not None else f"to {most:g}"
    parts = [lower] if above is not None or least > -math.inf else []
    parts += [upper] if below is not None or most < math.inf else []
    return "".join(f" {part}" for part in parts)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
