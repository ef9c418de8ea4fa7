"""LeRobot's own multi_task_dit policies, imported: chunks, and the importer's self-check.

``PCM_LEROBOT_PYTHON`` names Pythons of environments; those with ``lerobot[multi_task_dit]>=0.6.1``
run it, with this checkout's package.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.adopt.in_lerobot import ROOT, call

SCRIPT = Path(__file__).with_name("run_dit.py")
HAS = "import diffusers, tokenizers, transformers, lerobot.policies.multi_task_dit; print(True)"


@pytest.fixture(scope="module")
def found(lerobot_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if call(lerobot_python, "-c", HAS, check=False).strip().splitlines()[-1:] != ["True"]:
        pytest.skip(f"{lerobot_python} has no lerobot[multi_task_dit]")
    folder = tmp_path_factory.mktemp("dit")
    output = call(lerobot_python, SCRIPT, folder, ROOT / "benchmarks/lerobot")
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"case"')]
    return {row.pop("case"): row for row in rows}


@pytest.mark.slow
def test_chunks_are_lerobots(found: dict[str, Any]) -> None:
    assert len(found) == 4
    for case, row in found.items():
        solves = {k: v for k, v in row.items() if k not in ("notes", "checks")}
        assert len(solves) == 10
        for name, (error, _rounds) in solves.items():  # normalised units, float32
            assert error < 1e-5, (case, name, error)


@pytest.mark.slow
def test_the_self_check_passes(found: dict[str, Any]) -> None:
    for case, row in found.items():
        assert len(row["checks"]) == 2
        for check in row["checks"]:
            assert check["original"].startswith("lerobot "), check
            assert check["chunk"] < 1e-9, (case, check)
            assert max(check["observation"], check["action"]) < 1e-4, (case, check)


@pytest.mark.slow
def test_what_is_said(found: dict[str, Any]) -> None:
    notes = found["ddim state alone"]["notes"]
    assert notes[0] == "checkpoint 000020 of the run"
    assert any(note.startswith("the instruction is fixed") for note in notes)
    assert "observation.effort is not used, as by LeRobot's multi_task_dit policy" in notes
