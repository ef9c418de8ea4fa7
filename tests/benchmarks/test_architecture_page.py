"""docs/architecture.md says what the code is."""

import re
from pathlib import Path

import pytest

from benchmarks import architecture
from pcm_policy.cli.compose import compose
from pcm_policy.cli.settings.solver import read_solver
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import read
from pcm_policy.solvers.step import Known
from pcm_policy.solvers.stops import Rounds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / architecture.PAGE).read_text()
MADE = {
    "rooms": architecture.picture,
    "table": architecture.table,
    "rules": architecture.rules,
    "path": architecture.path,
}


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
    classes = PAGE.split("| class in")[1].split("These functions")[0]
    classes = re.findall(r"`([A-Z]\w+)`", classes)
    assert {"System", "Step", "Stop", "Tolerance", "Settle", "Solver"} <= set(classes)
    for name in classes:
        assert re.search(rf"^(class {name}\b|{name} = )", solvers, re.M), name
    for name in ("advance", "rounds", "solve"):
        assert re.search(rf"^def {name}\(", solvers, re.M), name


def test_a_setting_passes_the_stations_that_are_named() -> None:
    """``solver.rounds=2``: a word, ``read_solver``, ``read``, ``Rounds.ended``."""
    section = PAGE.split("## The path of a setting")[1].split("\n## ")[0]
    stations = [line for line in section.splitlines() if line.startswith("| ")][2:]
    assert len(stations) == 4
    words = ["solver=pcm", "solver.rounds=2", "policy=released/pusht_mlp", "output_dir=DIR"]
    section = read_solver(compose("eval", words).solver, "solver")
    assert section == {"method": "pcm", "rounds": 2}
    solver = read(section, Known(SamplerConfig(), 100, head_sampler=SamplerConfig()))
    assert solver.stop == Rounds(2)
    assert [named.partition("`")[2].partition("`")[0] for named in stations[1:]] == [
        read_solver.__name__, read.__name__, solver.stop.ended.__qualname__,
    ]  # fmt: skip


def test_solvers_import_what_the_page_says() -> None:
    used = architecture.arrows([room for level in architecture.floors() for room in level])
    assert used["solvers"]["control"] == {"deadline.py"}
    assert not set(used["solvers"]) & {"envs", "datasets", "files"}


def test_an_arrow_goes_down_and_none_is_lost() -> None:
    rooms = architecture.drawn()
    graph = architecture.arrows(rooms)
    short = architecture.needed(graph)
    assert all(rooms.index(a) < rooms.index(b) for a, to in graph.items() for b in to)

    def below(room: str) -> set[str]:
        return set(short[room]) | {far for near in short[room] for far in below(near)}

    assert all(set(to) <= below(room) for room, to in graph.items())


def test_the_path_can_be_read() -> None:
    assert len(architecture.path().splitlines()) <= 48


def test_the_readme_lays_out_every_room() -> None:
    layout = (ROOT / "README.md").read_text().split("## Layout")[1].split("## Documentation")[0]
    missing = [room for room in architecture.drawn() if not re.search(rf"\b{room}\b", layout)]
    assert missing == []
    linked = {"architecture.md", "extend.md", "glossary.md"}
    read_on = (ROOT / "README.md").read_text().split("## Documentation")[1]
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert linked <= pages <= set(re.findall(r"docs/(\w+\.md)", read_on))
