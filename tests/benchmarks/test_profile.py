"""The profile in its small form: parts that add up, and a policy that is left as it was."""

import json
from pathlib import Path

import pytest

from benchmarks.solvers import profile as profile_solve


def test_the_parts_of_a_profile_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profile_solve, "WARMUP", 1)
    out = tmp_path / "profile.json"
    before = profile_solve.Denoiser.__call__
    profile_solve.main(["released/pusht_mlp", "--calls", "1", "--out", str(out)])
    assert profile_solve.Denoiser.__call__ is before
    found = json.loads(out.read_text())
    assert {"commit", "hardware"} <= set(found)
    rows = {row["solver"].split()[0]: row for row in found["policies"]["released/pusht_mlp"]}
    assert set(rows) == {"ddpm-100", "ddim-8", "picard", "coarse", "newton", "pcm"}
    for row in rows.values():
        assert sum(row["share"].values()) == pytest.approx(1)
        assert min(row["share"][p] for p in ("encode", "network", "affine", "clean", "ends")) > 0
        assert 0 < row["products"] < 1
    assert rows["pcm"]["share"]["head"] > 0
    assert rows["newton"]["share"]["correct"] > 0
    assert rows["picard"]["share"]["head"] == rows["picard"]["share"]["correct"] == 0
    table = capsys.readouterr().out
    assert all(row["solver"] in table for row in rows.values())
