"""What ``benchmarks.versions`` keeps of a row, and what it says of rows that were not run."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import versions
from benchmarks.versions import ROWS, Row

TESTS = """
import pytest

@pytest.fixture
def broken():
    raise OSError

def test_good(): pass
def test_bad(): assert False
def test_no_start(broken): pass
def test_no_package(): pytest.importorskip("no_such_package", reason="no package")
@pytest.mark.parametrize("n", range(3))
def test_many(n): pass
"""


def test_a_report_is_counted_as_pytest_counts(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    words = ["-m", "pytest", "-q", "-c", "/dev/null", "--junitxml=report.xml", "test_some.py"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True)
    assert "1 failed, 4 passed, 1 skipped, 1 error" in done.stdout
    assert versions.outcome(tmp_path / "report.xml") == {
        "passed": 4,
        "failed": ["test_some.test_bad", "test_some.test_no_start"],
        "skipped": {"no package": 1},
    }


def row(name: str, passed: int) -> dict[str, Any]:
    found = {"python": "3.13.0", "torch": "2.14.1", "numpy": "2.5.5"}
    return {"name": name, "versions": found, "passed": passed, "failed": [], "skipped": {"x": 2}}


def test_a_row_replaces_its_own_result_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "RESULT", tmp_path / "versions.json")
    versions.kept(row("3.13-newest", 1))
    versions.kept(row("3.11-oldest", 2))
    found = versions.kept(row("3.13-newest", 3))
    assert [(x["name"], x["passed"]) for x in found] == [("3.11-oldest", 2), ("3.13-newest", 3)]
    assert json.loads((tmp_path / "versions.json").read_text())["rows"] == found
    table = {cells[0]: cells[1:] for cells in versions.lines(found)}
    assert list(table) == [row.name for row in ROWS]
    assert table["3.13-newest"] == ["3.13.0", "2.14.1", "2.5.5", "", "3", "0", "2"]
    assert table["lerobot-0.6.1"] == ["3.12", "", "", "", "not run", "", ""]


def test_the_package_of_the_environment_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PCM_LEROBOT_PYTHON"):
        monkeypatch.setenv(name, "/elsewhere")
    assert "/elsewhere" not in versions.clean().values()
    for chosen in (*versions.QUICK, *versions.PLUGIN):
        assert (versions.ROOT / chosen.split("::")[0]).exists(), chosen
    found = versions.installed(Path(sys.executable))
    assert found["python"] == sys.version.split()[0]
    assert {"torch", "numpy", "zarr", "huggingface-hub"} <= {*found}


def test_a_python_that_is_missing_is_named() -> None:
    with pytest.raises(SystemExit, match=r"no python3\.99 on the path or under .*: install it"):
        versions.interpreter("3.99")
    here = "{}.{}".format(*sys.version_info[:2])
    said = subprocess.run(
        [versions.interpreter(here), "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout.startswith(f"Python {here}.")


def test_tests_that_never_reported_end_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "QUICK", ("--no-such-flag",))
    with pytest.raises(SystemExit, match="mine: pytest ended before it wrote its report"):
        versions.tested(Row("mine", "3.11", ("x",)), Path(sys.executable), tmp_path / "none.xml")
