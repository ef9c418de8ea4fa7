"""A watched process: its memory, its end, and its kill."""

from pathlib import Path

import pytest

from benchmarks.watched import later, lines, watched

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
TAKES = "import time; held = bytearray(50_000_000); time.sleep(0.3)"
STAYS = "import sys, time; open(sys.argv[1], 'w').close(); time.sleep(60)"


def test_its_own_memory_is_seen_and_not_that_of_who_started_it() -> None:
    held = b"x" * 200_000_000
    found = watched(["-c", TAKES])
    assert 50 < found["anon_mb"] < found["peak_mb"] < 150
    assert len(held) == 200_000_000


def test_it_is_killed_when_it_is_time(tmp_path: Path) -> None:
    watched(["-c", STAYS, str(tmp_path / "begun")], kill=(tmp_path / "begun").exists)


@pytest.mark.parametrize(("code", "kill"), [("pass", lambda: False), ("sys.exit(3)", None)])
def test_another_end_is_an_error(code: str, kill: object) -> None:
    said = "before it was to be killed" if kill else "failed: see above"
    with pytest.raises(SystemExit, match=said):
        watched(["-c", f"import sys; {code}"], kill=kill)  # type: ignore[arg-type]


def test_later_counts_from_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("benchmarks.watched.time.monotonic", lambda: now)
    true = iter([False, True])
    ended = later(lambda: next(true), 2.0)
    assert not ended()
    now = 5.0
    assert not ended()
    now = 7.0
    assert ended()


def test_rows_of_both_sizes() -> None:
    sizes = {"tenth": (1.4, 2.0), "whole": (3.0, 4.0)}
    report = {
        name: {"rows": {"a": {"anon_mb": anon, "peak_mb": peak}}}
        for name, (anon, peak) in sizes.items()
    }
    assert lines(report) == [["a", "1", "3", "2", "4"]]
