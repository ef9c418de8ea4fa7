"""The commands that README and docs show, as a reader would type them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

START = re.compile(
    r"(?P<before>(?:[A-Z_]+=\S+ )*)"
    r"(?P<program>pcm-[a-z]+|python -m [\w.]+|make|lerobot-[a-z]+|torchrun|pip install)(?![\w-])"
)
FENCED = re.compile(r"^ *```.*?^ *```", re.S | re.M)


@dataclass(frozen=True)
class Command:
    """One command of a document.

    Attributes:
        document: its file name.
        words: without comments, descriptions and ``...``; ``[optional]`` words are among them.
        whole: it stands in a block and has no ``...``: all that it needs is there.
    """

    document: str
    words: tuple[str, ...]
    whole: bool

    @property
    def program(self) -> str:
        """Its first word."""
        return self.words[0]

    def __str__(self) -> str:
        return f"{self.document}: {' '.join(self.words)}"


def commands() -> list[Command]:
    """Return every command of README and docs, each once."""
    found: dict[Command, None] = {}
    for document in DOCUMENTS:
        found |= dict.fromkeys(_commands(document))
    return list(found)


def solver_settings() -> list[tuple[str, ...]]:
    """Return the words of every ``solver=...`` that a document names by itself, each once."""
    found: dict[tuple[str, ...], None] = {}
    for document in DOCUMENTS:
        text = document.read_text()
        spans = re.findall(r"(?<!`)`(solver=[^`]+)`(?!`)", text)
        spans += [line.strip() for line in block_lines(text) if line.strip().startswith("solver=")]
        for span in spans:
            words = re.split(r"\s{2,}", span.strip())[0].split()
            own = tuple(word for word in words if word.startswith("solver"))
            if own != ("solver=tuned",):  # the tuner's file, see README
                found[own] = None
    return list(found)


def files_shown(document: Path) -> dict[str, str]:
    """Return the files that a document asks its reader to write: "Save this as ``NAME``:"."""
    shown = r"`([\w/]+\.(?:yaml|py))`[^`\n]*:\n\n(?:```\w*\n(.*?)```|((?:(?:    [^\n]*)?\n)+))"
    found = re.findall(shown, document.read_text(), re.S)
    return {name: fenced or dedent(block) for name, fenced, block in found}


def python_blocks(document: Path) -> list[str]:
    """Return the Python of a document, a text for each block."""
    return re.findall(r"^```python\n(.*?)^```", document.read_text(), re.S | re.M)


def block_lines(text: str) -> list[str]:
    """Return the lines of a document's code blocks, those that end with a backslash joined."""
    kept = [line.strip("\n") for block in FENCED.findall(text) for line in block.splitlines()[1:-1]]
    kept += [line for line in FENCED.sub("", text).splitlines() if line.startswith("    ")]
    return re.sub(r"[ ]*\\\n\s*", " ", "\n".join(kept)).splitlines()


def _commands(document: Path) -> Iterator[Command]:
    text = document.read_text()
    for line in block_lines(text):
        match = START.match(line.strip().removeprefix("$ "))
        if match and not re.match(rf"{match['program']}( \w+)?: error", line.strip()):
            yield from _parsed(document.name, line.strip().removeprefix("$ "), match, True)
    prose = "\n".join(x for x in FENCED.sub("", text).splitlines() if not x.startswith("    "))
    for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose):
        line = " ".join(span.split())
        match = START.match(line)
        if match and ("=" in line or not line.startswith("pcm-")) and line != match["program"]:
            yield from _parsed(document.name, line, match, False)


def _parsed(document: str, line: str, match: re.Match[str], block: bool) -> Iterator[Command]:
    program, rest = match["program"], line[match.end() :]
    if rest.startswith(" " * 13):  # columns: what follows so far away describes the command
        rest = ""
    rest = re.split(r"\s{2,}|\s#\s|\s->\s", rest.strip())[0]
    whole = block and "..." not in rest
    words = [_plain(word) for word in shlex.split(rest.replace("[,", "["))]
    words = [word for word in words if word]
    for first in words[0].split("|") if words else [""]:
        given = [first, *words[1:]] if words else []
        yield Command(document, (*program.split(), *given), whole)


def _plain(word: str) -> str:
    """Return a word without the brackets and the ``...`` of documentation."""
    if word in ("...", "[...]"):
        return ""
    word = word.replace(",...]", "]").replace("=[...]", "=[]")
    optional = word.startswith("[") and word.endswith("]") and "=" in word
    if optional or word.startswith("[--"):
        return word.removeprefix("[").removesuffix("]")
    return word.removesuffix("]") if "[" not in word else word
