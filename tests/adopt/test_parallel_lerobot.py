"""LeRobot's own SmolVLA, pi0, pi0.5 and multi_task_dit, solved from outside.

``PCM_LEROBOT_PYTHON`` names Pythons of environments; those with
``lerobot[smolvla,pi,multi_task_dit]>=0.6.1`` run it, with this checkout's package.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.adopt.in_lerobot import ROOT, call

SCRIPT = Path(__file__).with_name("run_parallel.py")
KINDS = ("smolvla", "pi0", "pi05", *(f"multi_task_dit {s}" for s in ("ddpm", "ddim", "flow")))
HAS = """
from importlib.metadata import version
import diffusers, transformers
print(tuple(map(int, version("lerobot").split(".")[:3])) >= (0, 6, 1))
"""


@pytest.fixture(scope="module")
def found(lerobot_python: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if call(lerobot_python, "-c", HAS, check=False).strip().splitlines()[-1:] != ["True"]:
        pytest.skip(f"{lerobot_python} has no lerobot[smolvla,pi,multi_task_dit]>=0.6.1")
    folder = tmp_path_factory.mktemp("parallel")
    output = call(lerobot_python, SCRIPT, folder / "policies", ROOT / "benchmarks/lerobot")
    rows = [json.loads(line) for line in output.splitlines() if line.startswith('{"kind"')]
    return {row.pop("kind"): row for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_chunks_and_actions_are_lerobots(found: dict[str, Any], kind: str) -> None:
    row = found[kind]
    solves = {k: v for k, v in row.items() if isinstance(v, list)}
    assert len(solves) == 8
    for name, (error, _rounds, certified) in solves.items():
        assert certified, name
        exact = kind in KINDS[:3] or name.startswith("sequential")
        assert error < (1e-5 if exact else 1e-4), (name, error)  # the tolerance is 1e-4
    assert row["rows differ"] > 1e-3
    assert row["actions"] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_known_actions_stay_and_nothing_is_left(found: dict[str, Any], kind: str) -> None:
    flags = {k: v for k, v in found[kind].items() if isinstance(v, bool)}
    assert len(flags) == (5 if kind in KINDS[:3] else 4)
    assert all(flags.values()), flags
