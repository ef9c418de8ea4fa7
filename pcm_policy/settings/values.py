"""From plain data to typed values: every one is checked, and a message names its setting."""

import inspect
import re
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pcm_policy.errors import PcmError
from pcm_policy.settings.kinds import Options, Range
from pcm_policy.settings.schema import GIVE, default_of, hints_of, plain, section_of
from pcm_policy.settings.words import refusal, short, suggestion

T = TypeVar("T")


YES, NO = ("true", "yes", "on", "y"), ("false", "no", "off", "n")


def read(kind: type[T], values: Mapping[str, Any], name: str = "") -> T:
    """Build a settings object from plain data.

    Args:
        kind: a dataclass.
        values: what was said; a setting that is not there, or is ``???``, takes its default.
        name: of the section, for messages; empty for a whole command.

    Raises:
        PcmError: a setting that the class does not have, one that must be given, or a value of
            another type or out of range; the message names the setting.
    """
    result: T = _section(kind, values, name)
    return result


def value(kind: Any, given: Any, name: str) -> Any:
    """Return one value as the type ``kind`` asks for it.

    Raises:
        PcmError: it is of another type, or out of range.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(args[0], args[1:], given, name)
    if origin in (Union, types.UnionType):
        return _union(args, given, name)
    if origin is Literal:
        return _word(args, given, name)
    if origin in (tuple, list, Sequence):
        return _list(kind, args, given, name)
    if origin in (dict, Mapping):
        if not isinstance(given, Mapping):
            raise refusal(name, given, kind)
        return {str(k): value(args[1], v, f"{name}.{k}") for k, v in given.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        return given if isinstance(given, kind) else _section(kind, given, name)
    if kind is float:
        return _annotated(float, [Range()], given, name)
    return _SIMPLE.get(kind, _anything)(given, name)


def options(make: Callable[..., Any], given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Check the keyword arguments of a class or a function by its signature.

    Returns:
        All of its keyword arguments: what was given, and the defaults of the others.

    Raises:
        PcmError: an unknown one, one that must be given, or one of another type or out of range.
    """
    function: Any = getattr(make, "__init__") if isinstance(make, type) else make  # noqa: B009
    hints = get_type_hints(function, include_extras=True)
    own = [p for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    _known(given, [p.name for p in own], name)
    result = {}
    for one in own:
        if given.get(one.name, GIVE) != GIVE:
            kind = hints.get(one.name, Any)
            result[one.name] = value(kind, given[one.name], f"{name}.{one.name}")
        elif one.default is one.empty:
            raise PcmError(f"give {name}.{one.name}=...")
        else:
            result[one.name] = one.default
    return result


def _section(kind: type, given: Any, name: str) -> Any:
    if not isinstance(given, Mapping):
        raise PcmError(f"{name}={short(given)}: give its settings, such as {name}.NAME=VALUE")
    dot, hints = f"{name}." if name else "", hints_of(kind)
    _known(given, [one.name for one in fields(kind)], name)
    values = {}
    for one in fields(kind):
        full, said = f"{dot}{one.name}", given.get(one.name, GIVE)
        section, default = section_of(hints[one.name]), default_of(one)
        if said == "" and default == GIVE:  # an empty variable of a shell is no folder
            raise PcmError(f"{full} is empty: give {full}=...")
        if isinstance(said, str) and said == GIVE:
            if default == GIVE and section is None:
                raise PcmError(f"give {full}=...")
            said = {} if default == GIVE else plain(default)
        elif section is not None and isinstance(said, Mapping) and is_dataclass(default):
            said = {**plain(default), **said}
        values[one.name] = value(hints[one.name], said, full)
    return kind(**values)


def _known(given: Mapping[str, Any], known: Sequence[str], name: str) -> None:
    dot = f"{name}." if name else ""
    for key in given:
        if key not in known:
            hint = suggestion(f"{dot}{key}", [f"{dot}{one}" for one in known])
            raise PcmError(f"unknown setting {dot}{key}" + (f": {hint}" if hint else ""))


def _annotated(kind: Any, extras: Sequence[Any], given: Any, name: str) -> Any:
    for extra in extras:
        if isinstance(extra, Options):
            if not isinstance(given, Mapping):
                raise PcmError(f"{name}={short(given)}: give its settings, as {name}.NAME=VALUE")
            return extra.read(given, name)
    found = _float(given, name) if kind is float else value(kind, given, name)
    if any(isinstance(extra, Range) and found not in extra for extra in extras):
        raise refusal(name, given, Annotated[kind, *extras])
    return found


def _union(kinds: Sequence[Any], given: Any, name: str) -> Any:
    if given is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    if len(kinds) == 1:
        return value(kinds[0], given, name)
    many = isinstance(given, list | tuple)
    fitting = [kind for kind in kinds if (get_origin(kind) in (tuple, list, Sequence)) == many]
    for kind in fitting:
        with suppress(PcmError):
            return value(kind, given, name)
    raise refusal(name, given, Union[tuple(kinds)])  # noqa: UP007


def _word(words: Sequence[Any], given: Any, name: str) -> Any:
    if isinstance(given, bool):  # YAML reads a bare no, off, yes or on as these
        spelt = [one for one in words if str(one) in (YES if given else NO)]
        given = spelt[0] if spelt else given
    if given not in words or isinstance(given, bool) != isinstance(words[0], bool):
        raise refusal(name, given, Literal[*words])
    return given


def _list(kind: Any, kinds: Sequence[Any], given: Any, name: str) -> Any:
    if not isinstance(given, list | tuple):
        raise refusal(name, given, kind)
    several = get_origin(kind) is tuple and Ellipsis not in kinds
    if several and len(given) != len(kinds):
        raise refusal(name, given, kind)
    inner = kinds if several else [kinds[0]] * len(given)
    found = [value(k, v, f"{name}[{i}]") for i, (k, v) in enumerate(zip(inner, given, strict=True))]
    return found if get_origin(kind) is list else tuple(found)


def _bool(given: Any, name: str) -> bool:
    if isinstance(given, bool):
        return given
    word = str(given).lower()
    if isinstance(given, str | int) and word in (*YES, "1"):
        return True
    if isinstance(given, str | int) and word in (*NO, "0"):
        return False
    raise refusal(name, given, bool)


def _int(given: Any, name: str) -> int:
    if isinstance(given, str) and re.fullmatch(r"[+-]?\d{1,18}", given):
        return int(given)
    whole = isinstance(given, float) and given.is_integer() and abs(given) < 2**53
    if (isinstance(given, int) and not isinstance(given, bool)) or whole:
        return int(given)
    raise refusal(name, given, int)


def _float(given: Any, name: str) -> float:
    if isinstance(given, str):
        with_point = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", given)
        given = float(given) if with_point else given
    if isinstance(given, int | float) and not isinstance(given, bool):
        with suppress(OverflowError):  # an integer of more than 308 digits
            return float(given)
    raise refusal(name, given, float)


def _text(given: Any, name: str) -> str:
    if isinstance(given, int) and not isinstance(given, bool):
        return str(given)
    if not isinstance(given, str) or "\0" in given:
        raise refusal(name, given, str)
    return given


def _anything(given: Any, name: str) -> Any:
    return given


_SIMPLE: dict[Any, Callable[[Any, str], Any]] = {
    bool: _bool,
    int: _int,
    str: _text,
}
