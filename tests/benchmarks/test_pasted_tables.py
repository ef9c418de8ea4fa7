"""Tables in README and docs are what the committed result files hold."""

import json
from pathlib import Path
from typing import Any

from benchmarks import big_hdf5, engines, robosuite_versions, scale_agreement, versions
from benchmarks.compare import users
from benchmarks.lerobot import outside_page
from benchmarks.routes import route
from benchmarks.solvers import certified
from benchmarks.study import pcm, precision
from pcm_policy.measure.tables import markdown

ROOT = Path(__file__).parents[2]


def pasted(name: str, document: str = "docs/performance.md") -> str:
    page = (ROOT / document).read_text()
    return page.split(f"<!-- {name}:begin -->\n")[1].split(f"<!-- {name}:end -->")[0]


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


def test_the_rows_of_the_readme() -> None:
    report = result("study/pusht/study.json")
    executed = {"threads": 1, "mode": "eager", "precision": "float32", "tf32": False}
    command = "python -m benchmarks.study.pcm --policy released/pusht --episodes 600"
    assert pasted("measured", "README.md") == pcm.excerpt(command, report | {"runtime": executed})


def test_the_arms_of_the_readme() -> None:
    names = pasted("routes", "README.md").splitlines()[0].strip("| ").split(" | ")
    reports = [result(f"routes/{name}.json") for name in names]
    assert pasted("routes", "README.md") == markdown(["", *names], route.rows(reports)) + "\n"


def test_rounds_until_certified() -> None:
    rows = result("certified.json")["rows"]
    table = markdown(certified.HEAD, [certified.cells(row) for row in rows])
    assert table in pasted("certified", "docs/pcm.md")


def test_what_several_processes_learn() -> None:
    rows = result("scale/agreement.json")["rows"]
    lines = list(map(scale_agreement.cells, rows))
    assert pasted("agreement", scale_agreement.PAGE) == markdown(scale_agreement.HEAD, lines) + "\n"
    assert all(row["weights"] < 1e-3 and row["loss"] < 1e-3 for row in rows)
    assert all(row["weights"] == row["loss"] == 0 for row in rows if "again" in row["side"])


def test_memory_on_a_large_file() -> None:
    found = result("memory/big_hdf5.json")
    table = markdown(big_hdf5.HEAD, big_hdf5.lines(found)) + "\n"
    assert pasted("big-hdf5", big_hdf5.PAGE) == table
    assert found["whole"]["bytes"] > 9 * found["tenth"]["bytes"]
    for name, row in found["whole"]["rows"].items():
        more = row["anon_mb"] - found["tenth"]["rows"][name]["anon_mb"]
        assert more * 1e6 < 0.05 * found["whole"]["bytes"], name


def test_policies_solved_from_outside() -> None:
    page, found = outside_page.PAGE, result("lerobot/outside.json")
    lines = outside_page.rounds_lines(found["rounds"])
    assert pasted("rounds", page) == markdown(outside_page.ROUNDS_HEAD, lines) + "\n"
    lines = list(map(outside_page.speed_cells, outside_page.speed_rows(found["speed"])))
    assert pasted("speed", page) == markdown(outside_page.SPEED_HEAD, lines) + "\n"
    for row in found["rounds"]:
        assert row["certified_rows"] == row["rows"]
        assert row["error"] < 1e-3


def test_the_robots_table() -> None:
    found = result("robot/released_pusht.json")
    page = (ROOT / "docs/robot.md").read_text()
    for name in ("torch", "onnxruntime", "openvino"):
        start, solves = found["starts"][name], found["solves"][name]
        cells = f"{start['first_action_s']:.2g} | {start['peak_mib']:.0f} | "
        assert f"| {cells}{solves['p50']:.2g} / {solves['p99']:.2g}" in page, name
    pusht = found["pusht"]
    assert f"{pusht['mean_score']['policy']:.5f}" in page
    assert f"{pusht['episodes'] - pusht['apart_by_more_than_1e-3']} of them" in page
    assert f"at most {pusht['largest_difference']:.3f} of a score" in page


def test_how_far_two_robosuites_part() -> None:
    lines = list(map(robosuite_versions.cells, result("robosuite_versions.json")["rows"]))
    shown = pasted("robosuite-versions", robosuite_versions.PAGE)
    assert shown == markdown(robosuite_versions.HEAD, lines) + "\n"


def test_the_versions_that_were_tried() -> None:
    rows = result("versions.json")["rows"]
    table = markdown(versions.HEAD, versions.lines(rows))
    assert pasted("versions", versions.PAGE) == table + "\n"
    page = (ROOT / versions.PAGE).read_text()
    for row in rows:
        assert row["passed"] > 0
        assert all(name.rpartition(".")[2] in page for name in row["failed"]), row["name"]
