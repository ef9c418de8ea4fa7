"""docs/architecture.md's pictures, made from the code.

    python -m benchmarks.architecture

Rooms and their floors come from the import contracts in ``pyproject.toml``, arrows from the import
statements, the path of an observation from one traced call of ``predict``.
"""

import argparse
import ast
import os
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from benchmarks.pasted import paste
from pcm_policy.policy.policy import DiffusionPolicy

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pcm_policy"
PAGE = "docs/architecture.md"
SHORT = 3
"""Functions of at most so many statement lines are left out of the path."""
CLOSED = ("DiffusionPolicy.default_solver", "DiffusionPolicy.draw_noise")
"""What these call is left out of the path."""
LOCK = "turns.py"
"""The lock around a prediction is left out as well."""
Arrows = dict[str, set[str]]


def floors() -> list[list[str]]:
    """Return the rooms, the highest floor first: a room imports from lower floors alone."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(c["layers"] for c in settings["contracts"] if c["type"] == "layers")
    return [[room.strip() for room in layer.split("|")] for layer in layers]


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
    """Return for each room the rooms that its files import from."""
    found: Arrows = {}
    for room in rooms:
        nodes = [node for file in files(room) for node in _run(ast.parse(file.read_text()))]
        names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
        names += [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
        used = {n.split(".")[1] for n in names if n.startswith("pcm_policy.")}
        found[room] = (used & set(rooms)) - {room}
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
        return graph[room] | {far for near in graph[room] for far in below(near)}

    return {
        room: {t for t in to if not any(t in below(other) for other in to - {t})}
        for room, to in graph.items()
    }


def drawn() -> list[str]:
    """Return the rooms of the picture: those that are folders, but for the floor of settings."""
    rooms = [room for level in floors() for room in level]
    return [room for room in rooms if (PACKAGE / room).is_dir() and room != "settings"]


def picture() -> str:
    """Return the drawn rooms and the needed arrows between them as a mermaid diagram."""
    rooms = drawn()
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"    {room}" for room in rooms]
    for room, to in needed(arrows(rooms)).items():
        lines += [f"    {room} --> {other}" for other in rooms if other in to]
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

    A function stands where it is entered first. Networks, constructors, private and very short
    functions are left out, and so is what the functions in ``CLOSED`` call.
    """
    policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    observation = np.full((2, 20), 256.0)
    policy.predict(observation)  # what is made once is not part of the path
    lines: list[str] = []
    stack: list[str | None] = []
    seen: set[str] = set()

    def watch(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            line = None if set(stack) & set(CLOSED) else _line(frame)
            if line is not None and line not in seen:
                seen.add(line)
                depth = sum(step is not None for step in stack)
                lines.append(f"{'  ' * depth}{line}")
            stack.append(line and frame.f_code.co_qualname)
        elif event == "return" and stack:
            stack.pop()

    sys.setprofile(watch)
    try:
        policy.predict(observation)
    finally:
        sys.setprofile(None)
    return "\n".join(["```", *lines, "```", ""])


def _line(frame: FrameType) -> str | None:
    """Return function and file of a frame that is worth a line."""
    code = frame.f_code
    file, names = Path(code.co_filename), code.co_qualname.split(".")
    if PACKAGE not in file.parents or file.parent.name in ("networks", "pcm_policy"):
        return None
    if file.name == LOCK:
        return None
    if any(name.startswith(("_", "<")) for name in names):
        return None
    if code.co_qualname == "DiffusionPolicy.predict":
        return "DiffusionPolicy.predict  (policy/policy.py)"
    statements = {at for _, _, at in code.co_lines() if at} - {code.co_firstlineno}
    if len(statements) <= SHORT:
        return None
    return f"{code.co_qualname}  ({file.relative_to(PACKAGE)})"


def main() -> None:
    """Write the three parts into the page."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    paste(PAGE, "rooms", picture())
    paste(PAGE, "table", table())
    paste(PAGE, "path", path())


if __name__ == "__main__":
    main()
