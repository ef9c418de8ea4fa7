"""Tables in docs/performance.md are what the committed result files hold."""

import json
from pathlib import Path
from typing import Any

from benchmarks import engines
from benchmarks.compare import users
from benchmarks.study import precision
from pcm_policy.measure.tables import markdown

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/performance.md").read_text()


def pasted(name: str) -> str:
    return PAGE.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0]


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks/results" / name).read_text())
    return found


def test_what_users_run_today() -> None:
    rows = result("compare/users.json")["rows"]
    assert pasted("users") == markdown(users.HEAD, users.lines(rows)) + "\n"
    assert [row["package"] for row in rows[:3]] == ["lerobot"] * 3
    assert rows[0]["faster_than_ddpm-100"] == 1


def test_precisions() -> None:
    rows = result("study/precision.json")["rows"]
    assert pasted("precision") == markdown(precision.HEAD, list(map(precision.cells, rows))) + "\n"


def test_engines() -> None:
    lines = []
    for name in map(Path, engines.POLICIES):
        for row in result(f"engines/{name.name}.json")["rows"]:
            first, *rest = engines.cells(row)
            lines.append([f"{name.name}: {first}", *rest])
    assert pasted("engines") == markdown(engines.HEAD, lines) + "\n"
