"""What processes make of a pool, each a part, is the pool."""

from collections.abc import Callable
from threading import Barrier, Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from pcm_policy.training.sharing import ALONE, Team
from tests.training.test_own_iterates import POOL, distillation, policy


def together(world: int, work: Callable[[Team], Any]) -> list[Any]:
    """Do work in so many threads that gather from each other; returns what each has."""
    barrier, held, found = Barrier(world), [None] * world, [None] * world

    def member(rank: int) -> None:
        def gather(rows: Tensor) -> Tensor:
            held[rank] = rows  # type: ignore[call-overload]
            barrier.wait(60)
            everyone = torch.cat(held)  # type: ignore[arg-type]
            barrier.wait(60)
            return everyone

        found[rank] = work(Team(rank, world, gather))

    threads = [Thread(target=member, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("count", [1, 6, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_the_rows_of_all_are_all_rows(count: int, world: int) -> None:
    values = torch.arange(2 * count).view(2, count)
    whole = together(world, lambda team: team.whole(values[:, team.rows(count)], count, dim=1))
    assert all(torch.equal(found, values) for found in whole)
    sizes = together(world, lambda team: len(team.rows(count)))
    assert set(sizes) == {-(-count // world)}


@pytest.mark.parametrize(("own", "weight"), [(1.0, "root"), (0.5, "variance"), (0.0, "none")])
@pytest.mark.parametrize("world", [2, 3])
def test_a_pool_that_several_solve_is_that_of_one(world: int, own: float, weight: str) -> None:
    made = [distillation(policy(4), own=own, weight=weight) for _ in range(world)]
    want = distillation(policy(4), own=own, weight=weight).targets(0, ALONE)
    for found in together(world, lambda team: made[team.rank].targets(0, team)):
        for name in ("cond", "forced", "exact", "guess", "states", "bases"):
            a, b = getattr(found, name), getattr(want, name)
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        assert torch.equal(found.cold, want.cold)
        assert found.states.shape[2] == POOL
