"""An episode is a function of its seed: whoever runs beside it, and whatever befalls them."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.envs.record import either
from pcm_policy.rollout.chunks import ChunkAgent, RowFaults
from pcm_policy.rollout.outcomes import EpisodeOutcome, outcomes
from pcm_policy.rollout.trials import Trials

WORLD = "tests.rollout.odd_worlds:odd/well-v0"
Faults = dict[int, tuple[str, int]]


def agent(faults: Faults, batch: int, chunk: int) -> ChunkAgent:
    """Predict a move that every argument enters; some rows fail, by seed and step."""

    def predict(seen: Any, seeds: Any, ticks: Any) -> Any:
        assert len(seen) == len(seeds) == len(ticks) == batch
        due = {
            row: faults[seed][0]
            for row, (seed, tick) in enumerate(zip(seeds.tolist(), ticks.tolist(), strict=True))
            if seed in faults and tick >= faults[seed][1]
        }
        if refused := {row: why for row, why in due.items() if why == "refused"}:
            raise RowFaults(refused)
        moves = np.sin(seeds + 0.1 * ticks + seen[:, -1, 0] - seen[:, 0, 0])
        moves[list(due)] = np.nan
        return np.repeat(moves[:, None, None], chunk, axis=1)

    return ChunkAgent(predict, 3, batch)


def alone(faults: Faults, seed: int, chunk: int) -> EpisodeOutcome:
    runs = Trials(WORLD, 1, seed).run(agent(faults, 1, chunk), progress=False)
    return outcomes(runs)[0]


@settings(max_examples=40)
@given(
    episodes=st.integers(1, 7),
    envs=st.integers(1, 8),
    batch=st.integers(1, 5),
    chunk=st.integers(1, 5),
    faults=st.dictionaries(
        st.integers(50, 57), st.tuples(st.sampled_from(["refused", "nan"]), st.integers(0, 11))
    ),
)
def test_an_episode_is_the_same_alone(
    episodes: int, envs: int, batch: int, chunk: int, faults: Faults
) -> None:
    told: list[int] = []
    trials = Trials(WORLD, episodes, 50, envs)
    runs = trials.run(
        agent(faults, batch, chunk), progress=False, finished=lambda run: told.append(run.seed)
    )
    assert outcomes(runs) == tuple(alone(faults, 50 + i, chunk) for i in range(episodes))
    assert sorted(told) == list(range(50, 50 + episodes))
    for run in runs:
        assert len(run.actions) == run.steps
        assert np.isfinite(run.actions).all()
        due = faults.get(run.seed, ("", 99))[1] <= (11 // chunk) * chunk
        assert (run.fault is not None) == due


@given(st.lists(st.sampled_from([None, False, True])))
def test_success_is_known_once_it_is_said(said: list[bool | None]) -> None:
    found: bool | None = None
    for one in said:
        found = either(found, one)
    known = [one for one in said if one is not None]
    assert found == (any(known) if known else None)
