"""The words of a command line: which are settings, and how hydra is to read their values.

Hydra reads the values of settings by a grammar of its own, in which ``a,b`` is a sweep, ``run(1)``
a call and ``José`` an error. A setting that is a text, or a list of texts, is taken as it was typed
instead: its value is quoted before hydra sees it. What a user has quoted, and ``${...}``, stays.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from pcm_policy.errors import PcmError
from pcm_policy.settings import is_open, suggestion, walk

_KEY = re.compile(r"[+~]{0,2}[\w.@:-]+")
_QUOTED = re.compile(r"'.*'|\".*\"", re.S)


@dataclass(frozen=True)
class Vocabulary:
    """The settings that a command has.

    Attributes:
        kinds: what each setting takes, by its full name.
        sections: names of its sections and groups.
        words: settings that may be given without their names, in order.
    """

    kinds: Mapping[str, Any]
    sections: Sequence[str]
    words: Sequence[str] = ()
    _parser: OverridesParser = field(default_factory=OverridesParser.create)

    @classmethod
    def of(cls, kind: type, words: Sequence[str] = ()) -> "Vocabulary":
        """Return the vocabulary of a settings class."""
        kinds = {setting.name: setting.kind for setting in walk(kind)}
        inner = {name.rpartition(".")[0] for name in kinds} - {""}
        return cls(kinds, sorted(inner | set(getattr(kind, "groups", {}))), words)

    def overrides(self, given: Iterable[str], sweep: bool = False) -> list[str]:
        """Return the overrides that hydra is given for the words of a command line.

        Args:
            given: words such as ``episodes=3``, and those that may go without a name.
            sweep: whether ``a,b`` means one run with each.

        Raises:
            PcmError: a word that is no setting of this command; the message suggests one.
        """
        free, found = list(self.words), []
        for word in given:
            key, mark, text = word.partition("=")
            if free and self._is_value(word, key, mark):
                found.append(f"{free[0]}={_quoted(word)}")
                free.pop(0)
                continue
            found.append(self._override(key, mark, text, sweep))
            if key in free:
                free.remove(key)
        return found

    def _is_value(self, word: str, key: str, mark: str) -> bool:
        """Whether a word is the value of a setting whose name was left out."""
        if not mark:
            return not word.startswith("~")
        return not self._known(key) and (not _KEY.fullmatch(key) or Path(word).exists())

    def _known(self, key: str) -> bool:
        bare = key.lstrip("+~").partition("@")[0]
        return (
            bare in self.kinds
            or bare in self.sections
            or bare.partition(".")[0].partition("/")[0] == "hydra"
            or any(is_open(self.kinds.get(above)) for above in _above(bare))
        )

    def _override(self, key: str, mark: str, text: str, sweep: bool) -> str:
        bare = key.lstrip("+~")
        if not self._known(key):
            names = [*self.kinds, *self.sections]
            raise PcmError(f"unknown setting {bare}: {suggestion(bare, names)}".rstrip(": "))
        if not mark:
            if key.startswith("~"):
                return key
            raise PcmError(f"{bare}: give a value, {bare}=...")
        kind = self.kinds.get(bare)
        if bare not in self.kinds and any(is_open(self.kinds.get(up)) for up in _above(bare)):
            key, kind = f"++{bare}", Any
        elif is_open(kind) and bare not in self.sections and not key.startswith(("+", "~")):
            key = f"++{bare}"  # names that are not there yet are added
        return f"{key}={self._value(kind, bare, text, sweep)}"

    def _value(self, kind: Any, name: str, text: str, sweep: bool) -> str:
        if name.startswith("hydra"):
            return text
        texts, lists = _takes(kind)
        if lists and re.fullmatch(r"\[.*\]", text, re.S):
            return "[" + ",".join(map(_quoted, split(text[1:-1]))) + "]"
        if texts:
            return ",".join(map(_quoted, split(text))) if sweep else _quoted(text)
        return text if self._parses(f"x={text}", sweep) else _quoted(text)

    def _parses(self, word: str, sweep: bool) -> bool:
        try:
            parsed = self._parser.parse_override(word)
        except HydraException:
            return False
        return sweep or not parsed.is_sweep_override()


def split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes.

    Example:
        >>> split("keypoint, state[0:2], 'a,b'")
        ['keypoint', 'state[0:2]', "'a,b'"]
    """
    parts, depth, quote = [""], 0, ""
    for c in text:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"" and not parts[-1].strip():
            quote = c
        else:
            depth += (c in "([{") - (c in ")]}")
            if c == "," and depth == 0:
                parts.append("")
                continue
        parts[-1] += c
    stripped = [part.strip() for part in parts]
    return [] if stripped == [""] else stripped


def _quoted(text: str) -> str:
    if text in ("null", "") or _QUOTED.fullmatch(text):
        return text
    return QuotedString(text, Quote.single).with_quotes()


def _above(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _takes(kind: Any) -> tuple[bool, bool]:
    """Whether a setting may be a text, and whether a list of texts."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _takes(args[0])
    if origin in (Union, UnionType):
        both = [_takes(one) for one in args]
        return any(text for text, _ in both), any(lists for _, lists in both)
    if origin in (tuple, list):
        inner = _takes(args[0]) if args else (False, False)
        return False, inner[0]
    texts = kind is str or (origin is Literal and all(isinstance(one, str) for one in args))
    return texts, False
