"""The words of messages and of ``--help``: what a setting takes, what it is for, what was meant."""

import difflib
import inspect
import re
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pcm_policy.errors import PcmError
from pcm_policy.settings.kinds import Range


def describe(kind: Any) -> str:
    """Say in a few words what values an annotation takes."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [str(extra) for extra in args[1:] if isinstance(extra, Range)]
        return " ".join([describe(args[0]), *filter(None, limits)])
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else describe(one) for one in args)
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, args[:-1])), str(args[-1]))))
    if origin in (tuple, list, Sequence):
        inner = [one for one in args if one is not Ellipsis]
        count = f"{len(inner)} " if len(inner) > 1 else ""
        return f"a list of {count}" + describe(inner[0]).removeprefix("a ").replace(
            "number", "numbers"
        )
    return _NAMES.get(kind, "a section" if origin in (dict, Mapping) else "a value")


def described(kind: type) -> dict[str, str]:
    """Return what the ``Attributes`` of a class's docstring say of each, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        _, _, listed = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        found = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", listed, re.M)
        texts |= {name: " ".join(text.split()) for name, text in found}
    return texts


def suggestion(name: str, known: Collection[str]) -> str:
    """Return ``did you mean ...?`` with the nearest known name, or the names themselves."""
    last = name.rpartition(".")[2]
    ends = {one.rpartition(".")[2]: one for one in known}
    close = difflib.get_close_matches(name, known, n=1)
    if not close:
        close = [ends[one] for one in difflib.get_close_matches(last, ends, n=1)]
    if close:
        return f"did you mean {close[0]}?"
    return f"use {', '.join(known)}" if 0 < len(known) <= 30 else ""


def refusal(name: str, given: Any, kind: Any) -> PcmError:
    """Return the error that names a setting, what was given, and what it takes."""
    return PcmError(f"{name}={short(given)}: use {describe(kind)}")


def short(given: Any) -> str:
    """Return a value as it is typed on the command line, on one line and not too long."""
    words = {None: "null", True: "true", False: "false"}
    simple = given is None or isinstance(given, bool)
    text = words[given] if simple else str(given)
    text = repr(text)[1:-1]
    return text if len(text) <= 80 else f"{text[:77]}..."


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
}
