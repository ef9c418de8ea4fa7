"""docs/architecture.md says what the code is."""

import re
from pathlib import Path

import pytest

from benchmarks import architecture

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / architecture.PAGE).read_text()
MADE = {"rooms": architecture.picture, "table": architecture.table, "path": architecture.path}


@pytest.mark.parametrize("part", MADE)
def test_a_part_is_what_the_code_gives(part: str) -> None:
    shown = PAGE.split(f"<!-- {part}:begin -->\n")[1].split(f"<!-- {part}:end -->")[0]
    assert shown == MADE[part](), "run python -m benchmarks.architecture"


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"`([\w./-]+(?:/|\.py|\.toml))`", PAGE))
    named |= {f"pcm_policy/{file}" for file in re.findall(r"\(([\w/]+\.py)\)", PAGE)}
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_class_and_function_that_is_named_exists() -> None:
    solvers = "".join(f.read_text() for f in (ROOT / "pcm_policy/solvers").glob("*.py"))
    for name in ("System", "Iterate", "Round", "Step", "Picard", "Anderson", "PCM", "Rounds"):
        assert re.search(rf"^class {name}\b", solvers, re.M), name
    for name in ("advance", "rounds", "solve"):
        assert re.search(rf"^def {name}\(", solvers, re.M), name


def test_an_arrow_goes_down_and_none_is_lost() -> None:
    rooms = architecture.drawn()
    graph = architecture.arrows(rooms)
    short = architecture.needed(graph)
    assert all(rooms.index(a) < rooms.index(b) for a, to in graph.items() for b in to)

    def below(room: str) -> set[str]:
        return short[room] | {far for near in short[room] for far in below(near)}

    assert all(to <= below(room) for room, to in graph.items())


def test_the_path_can_be_read() -> None:
    assert len(architecture.path().splitlines()) <= 45


def test_the_readme_lays_out_every_room() -> None:
    layout = (ROOT / "README.md").read_text().split("## Layout")[1].split("## Read on")[0]
    missing = [room for room in architecture.drawn() if not re.search(rf"\b{room}\b", layout)]
    assert missing == []
    linked = {"architecture.md", "extend.md", "glossary.md"}
    read_on = (ROOT / "README.md").read_text().split("## Read on")[1]
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert linked <= pages <= set(re.findall(r"docs/(\w+\.md)", read_on))
