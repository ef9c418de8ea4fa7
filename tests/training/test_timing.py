"""How long steps take, as the log says it."""

import time
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.training.cloning import Cloning
from pcm_policy.training.timing import Stopwatch
from tests.training.small import distill, lines, train


def test_a_stopwatch_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.0, 10.0, 10.5, 20.0, 21.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    watch = Stopwatch()
    with watch:
        pass
    with pytest.raises(ValueError, match="counted too"), watch:
        raise ValueError("counted too")
    assert watch.taken() == 2.5
    with watch:
        pass
    assert (watch.taken(), watch.taken()) == (1.0, 0.0)


def test_the_log_says_how_long_a_step_took_and_the_reading_of_its_batch(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation reads too, and takes long here: it is part of no step."""
    read = Cloning._read

    def slow(self: Cloning, windows: Any, *rest: Any) -> Any:
        time.sleep(0.02 if windows is self.train else 0.5)
        return read(self, windows, *rest)

    monkeypatch.setattr(Cloning, "_read", slow)
    base = train(demos, tmp_path / "run", "train.steps=4", "train.save_every=1")
    found = [line for line in lines(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in found] == [2, 4]
    assert all(0.02 <= line["read_s"] < line["step_s"] for line in found)
    assert all(line["read_s"] < 0.25 for line in found)
    distill(base, demos, tmp_path / "head", "train.steps=2")
    (line,) = (line for line in lines(tmp_path / "head") if "loss" in line)
    assert line["step_s"] > 0
    assert "read_s" not in line
