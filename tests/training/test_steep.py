"""Pools that take observations where the first guess is steepest."""

from pathlib import Path

import pytest
import torch

from pcm_policy.errors import PcmError
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.solvers.system import System, forcing
from pcm_policy.training.batches import Batches, Windows, step_generator
from pcm_policy.training.distillation import Distillation
from pcm_policy.training.kept import Kept
from pcm_policy.training.steep import MOVED, TRIES, SteepRows
from tests.training.test_own_iterates import DA, T, policy
from tests.training.test_sharing import together

COUNT, POOL, CANDIDATES, SEED = 40, 7, 3, 5


def windows() -> Windows:
    torch.manual_seed(1)
    return Windows(torch.randn(COUNT, 6), torch.rand(COUNT, T, DA) * 2 - 1)


def rows_of(made: SteepRows, index: int) -> list[int]:
    found: list[int] = made(index, windows().seen).tolist()
    return found


@pytest.mark.parametrize("index", [0, 1, 4])
def test_against_one_row_after_another(index: int) -> None:
    """The first half is at random; the second has the largest movement of the looked-at ones."""
    made, seen = policy(guess_width=10), windows().seen
    assert made.head is not None
    assert made.config.head is not None
    steep = POOL // 2
    plain = Batches(COUNT, POOL - steep, SEED)(index).tolist()
    looked_at = Batches(COUNT, steep * CANDIDATES, SEED + 1)(index).tolist()
    generator = step_generator(SEED, 2**36 + index)
    drawn = generator_noise(generator, len(looked_at), (T, DA), 0)
    moves = torch.randn(TRIES, len(looked_at), 6, generator=generator)
    movement: dict[int, float] = {}
    for i, row in enumerate(looked_at):
        noise, total = Noise(drawn.initial[i : i + 1]), 0.0
        chunks = []
        for obs in (seen[row], *(seen[row] + MOVED * move[i] for move in moves)):
            denoise = made.denoiser(obs[None], made.config.head.sampler)
            s = System(denoise, noise, forcing(denoise.sampler, noise))
            found = made.head.start(s)
            assert found is not None
            chunks.append(found[0])
        for chunk in chunks[1:]:
            total += float(((chunk - chunks[0]).detach() ** 2).mean() ** 0.5)
        movement[row] = total
    wanted = sorted(looked_at, key=lambda row: -movement[row])[:steep]
    assert rows_of(SteepRows(made, windows(), POOL, SEED, CANDIDATES), index) == plain + wanted


@pytest.mark.parametrize("world", [2, 3])
def test_processes_choose_the_same(world: int) -> None:
    steep = SteepRows(policy(guess_width=10), windows(), POOL, SEED, CANDIDATES)
    alone = rows_of(steep, 2)
    for found in together(world, lambda team: steep(2, windows().seen, team)):
        assert found.tolist() == alone


def test_a_pool_of_a_distillation_has_them(tmp_path: Path) -> None:
    """Solved, kept and trained on; the first guess learns from the same pools."""
    made, data = policy(guess_width=10), windows()
    steep = SteepRows(policy(guess_width=12), data, POOL, SEED, CANDIDATES)
    options = {"pool": POOL, "pools": 2, "guess_batch": 2, "guess_reuse": 1, "prefix": 0.0}
    kept = Kept(tmp_path, {})
    objective = Distillation(made, data, data, 2, SEED, steep=steep, kept=kept, **options)  # type: ignore[arg-type]
    rows = steep(1, data.seen)
    assert objective.guessing is not None
    for targets in (objective.targets, objective.guessing.targets):
        torch.testing.assert_close(targets(1).cond[:, :6], data.seen[rows], rtol=0, atol=0)


def test_a_head_without_a_first_guess_is_refused() -> None:
    with pytest.raises(
        PcmError, match=r"distill\.candidates=3: init=.* needs a head with a first guess"
    ):
        SteepRows(policy(guess_width=0), windows(), POOL, SEED, CANDIDATES)


def test_a_first_guess_that_has_not_learnt_is_refused() -> None:
    """Its output layer is zero, so that nothing moves it."""
    made = policy(guess_width=10)
    assert made.head is not None
    out = made.head.get_submodule("guess.out")
    with torch.no_grad():
        for weight in out.parameters():
            weight.zero_()
    with pytest.raises(PcmError, match=r"is the same for all observations"):
        rows_of(SteepRows(made, windows(), POOL, SEED, CANDIDATES), 0)
