"""Every benchmark is a module that says how it is run and takes ``--help``."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks.pasted import paste

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))
RUN = [f for f in FILES if '__name__ == "__main__"' in f.read_text()]
TEXTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("file", RUN, ids=module)
def test_its_first_lines_say_how_it_is_run(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "robomimic" in file.name:
        pytest.importorskip("robomimic")
    assert re.search(rf"^ *python -m {re.escape(module(file))}\b", file.read_text(), re.M)
    monkeypatch.setattr(sys, "argv", [str(file), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module(file), run_name="__main__")
    assert not ended.value.code
    assert "usage" in capsys.readouterr().out


def test_nobody_edits_the_path_or_times_by_itself() -> None:
    for file in FILES:
        text = file.read_text()
        assert "sys.path" not in text, file
        if "perf_counter" in text:  # what takes no turn: a long run, a client, no torch
            known = ("floor.py", "convert_memory.py", "serve.py", "profile.py", "robot.py")
            known += ("openpi_clients.py",)
            assert file.name in known, file


def test_every_result_is_one_that_a_document_shows() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "benchmarks/results"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no checkout")
    said = "\n".join(text.read_text() for text in TEXTS)
    for name in listed.stdout.split():
        path = Path(name)
        above = [path, *path.parents][: len(path.parts) - 2]
        assert any(str(place) in said for place in above), f"{name} is shown nowhere: delete it"


def test_pasting_replaces_what_stands_between_the_marks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.md"
    file.write_text("before\n<!-- x:begin -->\nold\n<!-- x:end -->\nafter\n")
    monkeypatch.setattr("benchmarks.pasted.ROOT", tmp_path)
    paste("a.md", "x", "new\n")
    assert file.read_text() == "before\n<!-- x:begin -->\nnew\n<!-- x:end -->\nafter\n"
    assert benchmarks.RESULTS.name == "results"
