"""The controller's grid: cells are kept, and the page shows what was measured."""

import json
from pathlib import Path

import pytest

from benchmarks.control import arms

WORDS = ["--policy", "released/pusht_mlp", "--episodes", "2", "--steps", "0", "--max-steps", "10"]


def test_a_cell_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, "--task", "pusht", "--modes", "naive", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["arms", *words])
    arms.main()
    first = (tmp_path / "pusht.json").read_text()
    (cell,) = json.loads(first)["cells"]
    assert (cell["mode"], cell["latency_steps"], len(cell["scores"])) == ("naive", 0, 2)
    arms.main()
    assert (tmp_path / "pusht.json").read_text() == first
    monkeypatch.setattr("sys.argv", ["arms", *words, "--episodes", "3"])
    with pytest.raises(SystemExit, match=r"measured with episodes=2, not 3"):
        arms.main()
