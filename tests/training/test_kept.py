"""Pools that come again, and the files that hold what was solved for them."""

from pathlib import Path

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.runtime.inputs import Assemble, Execute, Inputs, eager
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.result import SolveResult
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.kept import Kept
from pcm_policy.training.targets import Solved, Targets
from tests.training.test_distillation import LORA, windows, with_random_head
from tests.training.test_own_iterates import policy as guessing_policy

SIZE, POOLS = 4, 2
FIELDS = ("cond", "forced", "exact", "guess", "cold", "states", "bases")


def refused(assemble: Assemble, given: Inputs, solver: Solver) -> SolveResult:
    raise AssertionError("solved again")


def targets(folder: Path | None, execute: Execute = eager, seed: int = 0) -> Targets:
    kept = None if folder is None else Kept(folder, {"seed": seed})
    kinds = {"pool": SIZE, "warm": 0.5, "prefix": 0.5, "rounds": 2}
    policy = with_random_head(LORA)
    return Targets(policy, windows(), seed, **kinds, pools=POOLS, kept=kept, execute=execute)  # type: ignore[arg-type]


def same(found: Solved, wanted: Solved) -> bool:
    pairs = ((getattr(found, name), getattr(wanted, name)) for name in FIELDS)
    return all(torch.equal(a, b) for a, b in pairs)


def test_pools_come_again() -> None:
    """The third is the first, and the second another one."""
    made = targets(None)
    first, second, third, fourth = (made(index) for index in range(4))
    assert same(first, third)
    assert same(second, fourth)
    assert not torch.equal(first.exact, second.exact)


def test_nothing_is_solved_twice(tmp_path: Path) -> None:
    """Another object, as a resumed run has it, reads what the first one wrote."""
    wanted = [targets(None)(index) for index in range(POOLS)]
    written = [targets(tmp_path / "solved")(index) for index in range(POOLS)]
    read = [targets(tmp_path / "solved", refused)(index) for index in range(POOLS)]
    assert all(map(same, written, wanted))
    assert all(map(same, read, wanted))
    assert sorted(path.name for path in (tmp_path / "solved").iterdir()) == [
        f"pool-{index:04d}-process-0-of-1.safetensors" for index in range(POOLS)
    ]


def test_files_of_something_else_are_written_anew(tmp_path: Path) -> None:
    """Those of another seed, and one that is damaged."""
    other = targets(tmp_path, seed=1)(0)
    mine = targets(tmp_path)(0)
    assert same(mine, targets(None)(0))
    assert not torch.equal(mine.exact, other.exact)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert same(targets(tmp_path)(0), mine)
    assert same(targets(tmp_path, refused)(0), mine)


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "solved").write_text("not a folder")
    with pytest.raises(PcmError, match="cannot write"):
        targets(tmp_path / "solved")(0)


def test_the_first_guess_learns_from_exact_chunks() -> None:
    """The pool of the guess is one of the rounds, solved by the head's own sampler."""
    policy = guessing_policy(guess_width=8)
    data = windows()
    options = {"pool": SIZE, "pools": POOLS, "guess_batch": 2, "guess_reuse": 1, "prefix": 0.0}
    objective = Distillation(policy, data, data, 2, 0, **options)  # type: ignore[arg-type]
    assert objective.guessing is not None
    for index in range(POOLS + 1):
        found, wanted = objective.guessing.targets(index), objective.targets(index)
        assert torch.equal(found.cond, wanted.cond)
        assert torch.equal(found.exact, wanted.exact)
