"""docs/architecture.md's pictures, made from the code.

    python -m benchmarks.architecture

Rooms, their floors and the further rules come from the import contracts in ``pyproject.toml``,
arrows from the import statements, the path of an observation from one traced call of ``predict``.
"""

import argparse
import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from benchmarks.pasted import paste
from pcm_policy.limits import ActionLimits
from pcm_policy.policy.policy import DiffusionPolicy

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pcm_policy"
PAGE = "docs/architecture.md"
SHORT = 3
"""Functions of at most so many statement lines are left out of the path."""
CLOSED = ("DiffusionPolicy.default_solver", "DiffusionPolicy.draw_noise")
"""What these call is left out of the path."""
NAMED = (
    "DiffusionPolicy.raw_chunk", "eager", "solve", "start", "Rounds.ended", "ActionLimits.apply",
)  # fmt: skip
"""Short functions, and one of a file beside the rooms, that the path shows all the same."""
LOCK = "turns.py"
"""The lock around a prediction is left out as well."""
Arrows = dict[str, dict[str, set[str]]]
"""The files of a room that import from another: ``arrows(rooms)[room][other]``."""


def contracts(kind: str) -> list[dict[str, Any]]:
    """Return the import contracts of one kind."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return [contract for contract in settings["contracts"] if contract["type"] == kind]


def floors() -> list[list[str]]:
    """Return the rooms, the highest floor first: a room imports from lower floors alone."""
    (contract,) = contracts("layers")
    return [[room.strip() for room in layer.split("|")] for layer in contract["layers"]]


def rules() -> str:
    """Return what some rooms must not import, although it is below them or outside the package."""
    lines = [
        "| these rooms | must not import | rooms that are closed to them |",
        "| --- | --- | --- |",
    ]
    for contract in contracts("forbidden"):
        cells: tuple[list[str], list[str], list[str]] = ([], [], [])
        for name in contract["source_modules"]:
            cells[0].append(name.removeprefix("pcm_policy."))
        for name in contract["forbidden_modules"]:
            cells[1 + name.startswith("pcm_policy.")].append(name.removeprefix("pcm_policy."))
        lines.append(f"| {' | '.join(', '.join(f'`{n}`' for n in cell) for cell in cells)} |")
    return "\n".join([*lines, ""])


def files(room: str) -> list[Path]:
    """Return the Python files of a room, which is a folder or one file."""
    if (PACKAGE / f"{room}.py").exists():
        return [PACKAGE / f"{room}.py"]
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(PACKAGE / room, followlinks=True)
        for name in names
        if name.endswith(".py")
    ]
    return sorted(found)


def arrows(rooms: list[str]) -> Arrows:
    """Return for each room the rooms that its files import from, and which files do."""
    found: Arrows = {}
    for room in rooms:
        found[room] = {}
        for file in files(room):
            nodes = list(_run(ast.parse(file.read_text())))
            names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
            names += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
            used = {n.split(".")[1] for n in names if n.startswith("pcm_policy.")}
            for other in (used & set(rooms)) - {room}:
                found[room].setdefault(other, set()).add(file.name)
    return found


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below one but those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _run(child)


def needed(graph: Arrows) -> Arrows:
    """Leave out the arrows that a longer path says already (the transitive reduction)."""

    def below(room: str) -> set[str]:
        return set(graph[room]) | {far for near in graph[room] for far in below(near)}

    return {
        room: {t: by for t, by in to.items() if not any(t in below(o) for o in set(to) - {t})}
        for room, to in graph.items()
    }


def drawn() -> list[str]:
    """Return the rooms of the picture: those that are folders, but for the floor of settings."""
    rooms = [room for level in floors() for room in level]
    return [room for room in rooms if (PACKAGE / room).is_dir() and room != "settings"]


def picture() -> str:
    """Return the drawn rooms and the needed arrows between them as a mermaid diagram.

    An arrow bears the name of a file where one file alone of its room imports from the other.
    """
    rooms = drawn()
    lines = ["```mermaid", "flowchart TD"]
    for room, to in needed(arrows(rooms)).items():
        for other in (other for other in rooms if other in to):
            why = f"|{min(to[other])}| " if len(to[other]) == 1 else ""
            lines.append(f"    {room} -->{why or ' '}{other}")
    return "\n".join([*lines, "```", ""])


def table() -> str:
    """Return the rooms with their floor and the first line of their docstring."""
    lines = ["| floor | room | what it holds |", "| --- | --- | --- |"]
    highest = len(floors())
    placed = [(highest - i, room) for i, rooms in enumerate(floors()) for room in rooms]
    for floor, room in placed:
        own = files(room)
        head = next((f for f in own if f.name == "__init__.py"), own[0])
        text = (ast.get_docstring(ast.parse(head.read_text())) or "").split("\n")[0]
        text = text.replace("|", "/").replace("``", "`")
        lines.append(f"| {floor} | `{room}` | {text} |")
    return "\n".join([*lines, ""])


def path() -> str:
    """Return the functions that one observation passes, indented by who called whom.

    A function stands where it is entered first, with what its docstring says it does. Networks,
    constructors, private and very short functions are left out but for those in ``NAMED``, and so
    is what the functions in ``CLOSED`` call.
    """
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    policy.limits = ActionLimits(0.0, 512.0)
    observation = np.full((2, 20), 256.0)
    policy.predict(observation)  # what is made once is not part of the path
    lines: list[tuple[str, str]] = []
    stack: list[str | None] = []
    seen: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            line = None if set(stack) & set(CLOSED) else _line(frame)
            if line is not None and line not in seen:
                seen.add(line)
                depth = sum(step is not None for step in stack)
                lines.append((f"{'  ' * depth}{line}", _purpose(frame)))
            stack.append(line and frame.f_code.co_qualname)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(watch)
    try:
        policy.predict(observation)
    finally:
        sys.setprofile(None)
    width = max(len(line) for line, _ in lines) + 2
    return "\n".join(["```", *(f"{line:{width}}{text}" for line, text in lines), "```", ""])


def _line(frame: FrameType) -> str | None:
    """Return function and file of a frame that is worth a line."""
    code = frame.f_code
    file, names = Path(code.co_filename), code.co_qualname.split(".")
    if PACKAGE not in file.parents or file.name == LOCK:
        return None
    where = f"{code.co_qualname}  ({file.relative_to(PACKAGE)})"
    if code.co_qualname in (*NAMED, "DiffusionPolicy.predict"):
        return where
    if file.parent.name in ("networks", "pcm_policy"):
        return None
    if any(name.startswith(("_", "<")) for name in names):
        return None
    statements = {at for _, _, at in code.co_lines() if at} - {code.co_firstlineno}
    return None if len(statements) <= SHORT else where


def _purpose(frame: FrameType) -> str:
    """Return the beginning of a function's docstring: its first sentence, or clause."""
    doc = frame.f_code.co_consts[0] if frame.f_code.co_consts else None
    text = " ".join(doc.split("\n\n")[0].split()) if isinstance(doc, str) else ""
    text = re.sub(r":\w+:`~?([\w.]+)`", r"\1", text.replace("``", ""))
    return re.split(r"[.:;](?:\s|$)", text)[0]


def main() -> None:
    """Write the parts into the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    paste(PAGE, "rooms", picture())
    paste(PAGE, "table", table())
    paste(PAGE, "rules", rules())
    paste(PAGE, "path", path())


if __name__ == "__main__":
    main()
