"""Typed settings: plain data becomes a dataclass, every value of its type and in its range.

A settings class is a frozen dataclass. Its annotations say what a value may be: a type, a
``Literal`` of words, a list ``tuple[int, ...]``, another dataclass, ``None`` where the setting may
be left open, and ``Annotated[int, Range(least=1)]`` where not every number will do. Its docstring
says what each setting is for. :func:`read` builds it from the command line or from a file and
:func:`walk` lists it, for ``--help`` and for the tests.

Example:
    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Film:
    ...     fps: Positive = 30.0
    ...     frames: tuple[Natural, ...] = ()
    >>> read(Film, {"fps": 25, "frames": [1, 2]}, "film")
    Film(fps=25.0, frames=(1, 2))
    >>> read(Film, {"fps": float("nan")}, "film")
    Traceback (most recent call last):
    pcm_policy.errors.PcmError: film.fps=nan: use a number above 0
"""

from pcm_policy.settings.kinds import (
    Count,
    Depth,
    Level,
    Natural,
    NonNegative,
    Options,
    Positive,
    Range,
    Rows,
    Seed,
    Share,
    Threads,
    Width,
)
from pcm_policy.settings.schema import (
    GIVE,
    Setting,
    defaults,
    is_open,
    options_of,
    plain,
    section_of,
    walk,
)
from pcm_policy.settings.values import options, read, value
from pcm_policy.settings.words import describe, described, suggestion

__all__ = [
    "GIVE",
    "Count",
    "Depth",
    "Level",
    "Natural",
    "NonNegative",
    "Options",
    "Positive",
    "Range",
    "Rows",
    "Seed",
    "Setting",
    "Share",
    "Threads",
    "Width",
    "defaults",
    "describe",
    "described",
    "is_open",
    "options",
    "options_of",
    "plain",
    "read",
    "section_of",
    "suggestion",
    "value",
    "walk",
]
