"""Tables and pictures of the documents, each made from committed result files alone."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import RESULTS
from pcm_policy.files import write_text
from pcm_policy.measure.tables import markdown

ROOT = Path(__file__).parents[1]


def paste(document: str, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Args:
        document: path below the repository's root; it has both marks.
        name: of the marks.
        text: ends with a line break.
    """
    before, after = _around(document, name)
    write_text(ROOT / document, before + text + after)


def pasted(document: str, name: str) -> str:
    """Return what stands between the marks."""
    before, after = _around(document, name)
    text = (ROOT / document).read_text()
    return text[len(before) : len(text) - len(after)]


def _around(document: str, name: str) -> tuple[str, str]:
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, rest = (ROOT / document).read_text().split(begin)
    return before + begin, end + rest.split(end)[1]


def result(name: str) -> Any:
    """Return what a result file holds; ``name`` is its path below ``benchmarks/results``."""
    return json.loads((RESULTS / name).read_text())


def block(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table as it stands between marks."""
    return markdown(head, lines) + "\n"


@dataclass(frozen=True)
class Figure:
    """A table of a document.

    Attributes:
        document: path below the repository's root.
        name: of the marks around the table.
        results: the files it is made from, below ``benchmarks/results``.
        text: makes it of what the files hold, one argument a file; ends with a line break.
    """

    document: str
    name: str
    results: tuple[str, ...]
    text: Callable[..., str]

    def made(self) -> str:
        """Return the table that the result files give."""
        return self.text(*map(result, self.results))


@dataclass(frozen=True)
class Picture:
    """A picture of a document.

    Attributes:
        file: the picture, below ``benchmarks/results``.
        results: the files it is made from.
        draw: draws it; takes what the files hold, and the path of the picture.
    """

    file: str
    results: tuple[str, ...]
    draw: Callable[..., None]

    def found(self) -> list[Any]:
        """Return what the result files hold."""
        return list(map(result, self.results))
