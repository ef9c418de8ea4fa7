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
    monkeypatch.setattr(engines, "SOLVES", {"one PCM round": engines.SOLVES["one PCM round"]})
    monkeypatch.setattr(sys, "argv", ["engines", *words, "--output", str(tmp_path)])
    engines.main()
    call, solve = json.loads((tmp_path / "pusht_mlp.json").read_text())["rows"]
    assert (call["name"], solve["name"]) == ("one network call, batch 6", "one PCM round")
    for row in (call, solve):
        assert set(row["sides"]) == {"eager", *engines.ENGINES}
        assert all(side["difference"] < 1e-3 for side in row["sides"].values())
    call, solve = call["least"], solve["least"]
    assert solve["operations"] > 0.5 * call["operations"]  # it encodes what a call does, once
    assert solve["weights"] > call["weights"] > 0  # the head's are read too
    printed = capsys.readouterr().out
    assert "least" in printed
    assert "pusht_mlp: one PCM round" in printed
