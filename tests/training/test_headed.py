"""A head that goes on from an earlier one: what fits is taken, and what does not is said."""

from pathlib import Path

import pytest

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from tests.training.small import assert_same, distill, train, weights

STILL = ["train.steps=1", "train.lr=1e-9", "train.warmup=0"]


@pytest.fixture(scope="module")
def base(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(demos, tmp_path_factory.mktemp("base"), "train.steps=2")


@pytest.fixture(scope="module")
def first(demos: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return distill(base, demos, tmp_path_factory.mktemp("first"), "train.steps=4", "train.lr=0.01")


def test_a_head_of_the_same_shape_goes_on(
    demos: Path, base: Path, first: Path, tmp_path: Path
) -> None:
    again = distill(base, demos, tmp_path, *STILL, f"init={first}")
    assert_same(first, again, tolerance=1e-6)


def test_a_head_of_other_nodes_keeps_the_first_guess(
    demos: Path, base: Path, first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*STILL, f"init={first}", "head.options.nodes=[3,9]"]
    found, before = weights(distill(base, demos, tmp_path, *words)), weights(first)
    guess = [name for name in before if name.startswith("head.guess.")]
    assert guess
    for name in guess:
        assert (found[name] - before[name]).abs().max() < 1e-6, name
    assert found["head.inp.weight"].shape != before["head.inp.weight"].shape
    said = capsys.readouterr()
    assert "guess, level, round; new: inp, out, residual" in said.out + said.err
    head = DiffusionPolicy.from_pretrained(tmp_path / "policy").head
    assert head is not None
    assert getattr(head, "placed") == (3, 9)  # noqa: B009


def test_what_does_not_fit_is_refused(demos: Path, base: Path, first: Path, tmp_path: Path) -> None:
    other = train(demos, tmp_path / "other", "train.steps=1", "train.seed=5")
    with pytest.raises(PcmError, match="no PCM head to go on from"):
        distill(base, demos, tmp_path / "a", *STILL, f"init={base}")
    with pytest.raises(PcmError, match="its head belongs to another base"):
        distill(other, demos, tmp_path / "b", *STILL, f"init={first}")


def test_a_run_from_another_head_is_not_continued(
    demos: Path, base: Path, first: Path, tmp_path: Path
) -> None:
    run = [*STILL, "train.steps=2", "train.save_every=1"]
    distill(base, demos, tmp_path, *run)
    with pytest.raises(PcmError, match="was written with init="):
        distill(base, demos, tmp_path, *run, f"init={first}", "resume=true")
