"""What settings a class has: their names, kinds and defaults."""

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pcm_policy.settings.kinds import Options
from pcm_policy.settings.words import described

GIVE = "???"
"""Stands for a value that must be given, as in hydra."""


@dataclass(frozen=True)
class Setting:
    """One setting: its name with those of its sections, what it takes, default and purpose."""

    name: str
    kind: Any
    default: Any
    text: str


def walk(kind: type, name: str = "") -> Iterator[Setting]:
    """List every setting of a class; those of a section follow as ``section.setting``."""
    dot, texts, hints = f"{name}." if name else "", described(kind), hints_of(kind)
    for one in fields(kind):
        inner, full = hints[one.name], f"{dot}{one.name}"
        section, chosen = section_of(inner), options_of(inner)
        if section is not None:
            yield from walk(section, full)
            continue
        yield Setting(full, inner, plain(default_of(one)), texts.get(one.name, ""))
        for key, (own, text) in (chosen.known() if chosen else {}).items():
            yield Setting(f"{full}.{key}", own, None, text)


def section_of(kind: Any) -> type | None:
    """Return the settings class that an annotation stands for, or None for a single value."""
    inside = [one for one in get_args(kind) if one is not type(None)]
    if get_origin(kind) in (Annotated, Union, UnionType) and inside:
        return section_of(inside[0])
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def is_open(kind: Any) -> bool:
    """Whether an annotation is of a section that takes settings beyond those listed."""
    if get_origin(kind) is Annotated:
        return is_open(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return any(is_open(one) for one in get_args(kind))
    return get_origin(kind) in (dict, Mapping) or kind in (dict, Mapping)


def options_of(kind: Any) -> Options | None:
    """Return the :class:`Options` that an annotation carries, or None."""
    extras = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((extra for extra in extras if isinstance(extra, Options)), None)


def defaults(kind: type) -> dict[str, Any]:
    """Return the defaults of a class as plain data; ``???`` for what must be given."""
    found: dict[str, Any] = {}
    hints = hints_of(kind)
    for one in fields(kind):
        default, section = default_of(one), section_of(hints[one.name])
        found[one.name] = defaults(section) if default == GIVE and section else plain(default)
        chosen = options_of(hints[one.name])
        if chosen is not None:
            found[one.name] = dict.fromkeys(chosen.known()) | found[one.name]
    return found


def plain(given: Any) -> Any:
    """Return a settings object as plain data: dictionaries, lists, numbers and texts."""
    if is_dataclass(given) and not isinstance(given, type):
        return {one.name: plain(getattr(given, one.name)) for one in fields(given)}
    if isinstance(given, Mapping):
        return {str(key): plain(one) for key, one in given.items()}
    if isinstance(given, tuple | list):
        return [plain(one) for one in given]
    return given


def default_of(one: Field[Any]) -> Any:
    """Return the default of a field; ``???`` where it has none."""
    if one.default is not MISSING:
        return one.default
    return GIVE if one.default_factory is MISSING else one.default_factory()


@cache
def hints_of(kind: type) -> dict[str, Any]:
    """Return the annotations of a class, with their ranges."""
    return get_type_hints(kind, include_extras=True)
