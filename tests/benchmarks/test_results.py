"""What documents say of the committed results beside their tables."""

from pathlib import Path

from benchmarks.pasted import result

ROOT = Path(__file__).parents[2]


def test_what_users_run_today() -> None:
    rows = result("compare/users.json")["rows"]
    assert [row["package"] for row in rows[:3]] == ["lerobot"] * 3
    assert rows[0]["faster_than_ddpm-100"] == 1


def test_what_several_processes_learn() -> None:
    rows = result("scale/agreement.json")["rows"]
    assert all(row["weights"] < 1e-3 and row["loss"] < 1e-3 for row in rows)
    assert all(row["weights"] == row["loss"] == 0 for row in rows if "again" in row["side"])


def test_memory_on_a_large_file() -> None:
    found = result("memory/big_hdf5.json")
    assert found["whole"]["bytes"] > 9 * found["tenth"]["bytes"]
    for name, row in found["whole"]["rows"].items():
        more = row["anon_mb"] - found["tenth"]["rows"][name]["anon_mb"]
        assert more * 1e6 < 0.05 * found["whole"]["bytes"], name


def test_policies_solved_from_outside() -> None:
    for row in result("lerobot/outside.json")["rounds"]:
        assert row["certified_rows"] == row["rows"]
        assert row["error"] < 1e-3


def test_the_versions_that_were_tried() -> None:
    page = (ROOT / "docs/training.md").read_text()
    for row in result("versions.json")["rows"]:
        assert row["passed"] > 0
        assert all(name.rpartition(".")[2] in page for name in row["failed"]), row["name"]


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
