"""The deliberate changes still fit the program; running them takes too long for every day."""

import ast
from pathlib import Path

from tests.mutation.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
PARTS = ("sampling", "solvers", "heads", "normalize", "windows", "rollout", "controller", "folder")


def fits(mutant: Mutant) -> bool:
    try:
        ast.parse(mutant.applied((ROOT / mutant.file).read_text(encoding="utf-8")))
    except (ValueError, OSError):
        return False  # the text is no longer there
    return all((ROOT / test).exists() for test in mutant.tests)


def test_they_fit_in_every_part() -> None:
    assert not [m for m in MUTANTS if not fits(m)]  # a text that is gone checks nothing
    assert len(MUTANTS) >= 100
    for part in PARTS:
        assert any(part in m.file for m in MUTANTS), part
