"""The model of ``python -m benchmarks.scale``: formula and simulation agree, and trouble costs."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.pasted import result
from benchmarks.scale_model import Cost, Trouble, half_efficient, predicted, simulate

COST = Cost(10.0, 2.0, 0.0, 0.1, 1e-4, 1e-3, 0.01)
CALM = Trouble()
BAD = Trouble(slow_share=0.1, slow_factor=3.0, failures_per_hour=20.0, restart_s=30.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("processes", [1, 2, 7, 10, 100, 1000])
def test_without_trouble_the_formula_is_the_simulation(processes: int) -> None:
    wall = simulate(COST, CALM, 600, processes, rng()).wall_s
    assert wall == pytest.approx(predicted(COST, 600, processes))


@pytest.mark.parametrize("processes", [10, 100])
def test_the_longest_of_many_shards_is_foreseen(processes: int) -> None:
    cost = replace(COST, spread=0.4)
    walls = [simulate(cost, CALM, 3000, processes, rng(seed)).wall_s for seed in range(30)]
    assert np.mean(walls) == pytest.approx(predicted(cost, 3000, processes), rel=0.05)


def test_two_processes() -> None:
    alone, both = predicted(COST, 600, 1), predicted(COST, 600, 2)
    assert alone == pytest.approx(10 + 1200 + 0.01 + 0.1 + 0.06 + 0.001)
    assert 1.9 < alone / both < 2


@settings(max_examples=60)
@given(
    episodes=st.integers(1, 300),
    processes=st.integers(1, 60),
    task=st.none() | st.integers(1, 20),
    spread=st.sampled_from([0.0, 0.5]),
    trouble=st.sampled_from([CALM, BAD]),
    seed=st.integers(0, 1000),
)
def test_every_simulation_ends(
    episodes: int, processes: int, task: int | None, spread: float, trouble: Trouble, seed: int
) -> None:
    """No shard is lost, whatever dies, and no run is faster than its work divided among all."""
    cost = replace(COST, spread=spread)
    found = simulate(cost, trouble, episodes, processes, rng(seed), task)
    assert np.isfinite(found.wall_s)
    assert found.repeated >= 0
    assert (found.failures > 0) >= (found.repeated > 0)
    if spread == 0:
        assert found.wall_s >= cost.start_s + episodes * cost.episode_s / processes
    if trouble is CALM:
        assert found.failures == found.repeated == 0


def test_trouble_costs_shards_more_than_tasks() -> None:
    """A slow process holds a whole shard, but one task."""

    def mean(trouble: Trouble, task: int | None) -> float:
        runs = [simulate(COST, trouble, 2000, 50, rng(seed), task).wall_s for seed in range(20)]
        return float(np.mean(runs))

    assert mean(BAD, None) > 2 * mean(CALM, None)
    assert mean(CALM, 8) < mean(BAD, 8) < mean(BAD, None)


def test_where_it_stops() -> None:
    n = half_efficient(COST, 600)
    assert 600 * 2 / (n * predicted(COST, 600, n)) >= 0.5
    assert 600 * 2 / ((n + 1) * predicted(COST, 600, n + 1)) < 0.5
    assert half_efficient(COST, 6000) > 5 * n
    assert half_efficient(COST, 1) == 1


def test_the_rows_are_those_of_the_formula() -> None:
    found = result("scale/scale.json")
    cost = Cost(**found["measured"]["cost"]["cpu"])
    for row in found["rows"]:
        assert row["formula_s"] == pytest.approx(predicted(cost, row["episodes"], row["processes"]))
