"""A study's rows in every engine: each with its own time, beside what the study says of it."""

import json
from pathlib import Path

import pytest

from benchmarks import RESULTS
from benchmarks.study import engines
from tests.exporting import needs_exporter

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")


def test_every_row_is_timed_in_every_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needs_exporter()
    study = json.loads((RESULTS / "study/pusht_mlp/study.json").read_text())
    names = ("PCM 1", "DDIM 3")
    study["rows"] = [row for row in study["rows"] if row["name"] in names]
    (tmp_path / "study.json").write_text(json.dumps(study))
    engines.main(["--policy", "released/pusht_mlp", "--study", str(tmp_path), "--calls", "3"])
    report = json.loads((tmp_path / "engines.json").read_text())
    assert {row["name"] for row in report["rows"]} == set(names)
    for row, was in zip(report["rows"], study["rows"], strict=True):
        assert row["success"] == was["success"]
        assert set(row["ms"]) == set(engines.ENGINES)
        assert all(0 < ms["p50"] <= ms["max"] for ms in row["ms"].values())
    assert report["episodes"] == study["episodes"]
    assert (tmp_path / "engines.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*names, *engines.ENGINES))


def test_the_picture_is_made_of_the_results(tmp_path: Path) -> None:
    made = tmp_path / "drawn.png"
    kept = {"ms": {name: {"p50": 2.0, "max": 3.0} for name in engines.ENGINES}}
    row = {"name": "PCM 1", "family": "PCM", "success": {"mean": 0.8, "ci95": [0.7, 0.9]}}
    machine = {"device": "a machine", "threads": 1}
    engines.picture({"rows": [row | kept], "episodes": 9, "hardware": machine}, made)
    assert made.stat().st_size > 10_000
