"""Every engine gives the numbers of eager execution, beside what the processor needs at least."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import engines
from tests.exporting import needs_exporter


def test_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    needs_exporter()
    words = ["--policies", "released/pusht_mlp", "--batches", "6", "--calls", "2"]
    monkeypatch.setattr(sys, "argv", ["engines", *words, "--output", str(tmp_path)])
    engines.main()
    call, *solves = json.loads((tmp_path / "pusht_mlp.json").read_text())["rows"]
    assert call["name"] == "one network call, batch 6"
    assert [row["name"] for row in solves] == list(engines.SOLVES)
    for row in (call, *solves):
        assert set(row["sides"]) == {"eager", *engines.ENGINES}
        assert all(side["difference"] < 1e-3 for side in row["sides"].values())
    two, one, base = (row["least"] for row in solves)
    assert one["operations"] > call["least"]["operations"]  # the head's own come on top
    assert (
        two["operations"] > one["operations"] + 0.7 * call["least"]["operations"]
    )  # steps are encoded once
    assert one["weights"] == two["weights"] > call["least"]["weights"] > 0
    assert base["operations"] > 2 * call["least"]["operations"]  # 16 states for 6
    printed = capsys.readouterr().out
    assert "least" in printed and "pusht_mlp: one PCM round" in printed
