"""What ``benchmarks.lerobot.outside`` tries can be solved: an hour of training comes before it."""

from typing import Any

import pytest

from benchmarks.lerobot.outside import BOTH, DITS, FEW, ROUNDS
from pcm_policy.adopt.parallel import parallel
from tests.adopt.loops import DiT


@pytest.mark.parametrize("name", DITS)
def test_every_candidate_is_a_solver_of_its_policy(name: str) -> None:
    config: dict[str, Any] = {"num_train_timesteps": 100, "num_integration_steps": 100}
    policy = DiT(**config | DITS[name])
    few = [{"method": "sequential", "sampler": s, "steps": n} for s, n in FEW[name]]
    labels = [parallel(policy, given).solver.label for given in [*few, *BOTH, *ROUNDS.values()]]
    assert len(set(labels)) == len(labels)
