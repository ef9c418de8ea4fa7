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


def test_a_large_lerobot_folder() -> None:
    """At most 1.5 GB above the model, a fifth of a step for its batch, the same after two kills."""
    found = result("memory/big_lerobot.json")
    whole, page = found["whole"], (ROOT / "docs/training.md").read_text()
    assert whole["frames"] == 100_000
    own = {name: row["anon_mb"] for name, row in whole["rows"].items()}
    above = own["pcm-train"] - own["its policy, loaded"]
    assert above < 1500
    assert f"{above / 1e3:.2f} GB above the policy" in page
    more = own["pcm-train"] - found["tenth"]["rows"]["pcm-train"]["anon_mb"]
    assert more * 1e6 < 0.05 * whole["decoded_bytes"]
    assert whole["read_s"] < 0.2 * whole["step_s"]
    lost = found["interrupted"]
    assert lost["digest"] == found["digest"]
    assert (lost["half_decoded_files"], lost["of_them_at_the_end"]) == (1, 0)
    assert lost["whole_ones_decoded_again"] == 0
    assert lost["checkpoint"] < lost["killed_after_step"] < found["steps"]
    assert f"after step {lost['killed_after_step']} of {found['steps']}" in page


def test_policies_solved_from_outside() -> None:
    for row in result("lerobot/rounds.json")["rounds"]:
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
        memory = f"{start['peak_mib']:.0f} / {start['most_mib']:.0f}"
        spent = f"{solves['p50']:.2g} / {solves['p99']:.2g}"
        assert f"| {start['first_action_s']:.2g} | {memory} | {spent}" in page, name
    pusht = found["pusht"]
    apart, most = pusht["apart_by_more_than_1e-3"], pusht["largest_difference"]
    assert f"{pusht['mean_score']['policy']:.5f}" in page
    assert (apart["policy in ONNX Runtime"], most["policy in ONNX Runtime"]) == (0, 0)
    assert f"{pusht['episodes'] - apart['policy']} of them" in page
    assert f"at most {most['policy']:.3f} of a score" in page
