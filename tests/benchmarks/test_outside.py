"""What ``benchmarks.lerobot.outside`` tries can be solved: an hour of training comes before it."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.lerobot import heads
from benchmarks.lerobot.outside import BOTH, DITS, FEW, ROUNDS
from pcm_policy.adopt.parallel import parallel
from pcm_policy.cli.compose import compose
from pcm_policy.datasets.open import open_demonstrations
from tests.adopt.loops import DiT


@pytest.mark.parametrize("name", DITS)
def test_every_candidate_is_a_solver_of_its_policy(name: str) -> None:
    config: dict[str, Any] = {"num_train_timesteps": 100, "num_integration_steps": 100}
    policy = DiT(**config | DITS[name])
    few = [{"method": "sequential", "sampler": s, "steps": n} for s, n in FEW[name]]
    labels = [parallel(policy, given).solver.label for given in [*few, *BOTH, *ROUNDS.values()]]
    assert len(set(labels)) == len(labels)


def test_the_commands_that_make_a_head_are_commands(tmp_path: Path) -> None:
    (_, imported), (made, distilled) = heads.commands(tmp_path, "flow-100")
    assert imported[:2] == ["import", str(tmp_path / "flow-100")]
    settings: Any = compose("distill", distilled[1:])
    assert (settings.sampler.name, settings.sampler.steps) == ("flow_adams", 10)
    assert Path(settings.output_dir) == made.parent


def test_the_observations_of_a_head_are_a_replay_buffer(tmp_path: Path) -> None:
    heads.write_observations(tmp_path / "seen.npz")
    buffer = open_demonstrations(tmp_path / "seen.npz")
    assert {name: values.shape[1:] for name, values in buffer.arrays.items()} == {
        heads.STATE: (3,),
        heads.CAMERA: (32, 32, 3),
        "action": (4,),
    }
    assert len(buffer.episode_ends) == heads.EPISODES
