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


def test_enough_of_them_fit_in_every_part() -> None:
    fitting = [m for m in MUTANTS if fits(m)]
    assert len(fitting) >= 60, [m.old for m in MUTANTS if m not in fitting]
    for part in PARTS:
        assert any(part in m.file for m in fitting), part
