"""robomimic's own BC, trained by robomimic on a file made here, in our evaluator."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli.compose import compose
from pcm_policy.envs.simulators import import_robomimic
from pcm_policy.errors import PcmError
from pcm_policy.rollout.actors import ExpertActor, World
from pcm_policy.rollout.generate import generate
from pcm_policy.rollout.robomimic_policy import RobomimicPolicy

pytest.importorskip("metaworld")
pytest.importorskip("h5py")
if importlib.util.find_spec("robomimic") is None:
    pytest.skip("robomimic is not installed", allow_module_level=True)
WORLD = World("metaworld/reach", "pcm_policy/MetaWorld-reach-v3", {"max_episode_steps": 120})
KEYS = ("proprio", "object", "goal")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "demos.hdf5"
    options: dict[str, Any] = {"attempts": 20, "seed": 0, "control_hz": 80.0}
    generate(ExpertActor(WORLD, 1), WORLD, path, episodes=2, **options)
    return path


@pytest.fixture(scope="module")
def checkpoint(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = Path(__file__).parents[2] / "benchmarks/routes/robomimic_bc.py"
    spec = importlib.util.spec_from_file_location("robomimic_bc", file)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    output, streams = tmp_path_factory.mktemp("bc"), (sys.stdout, sys.stderr)
    try:
        made: Path = script.train(demonstrations, output, list(KEYS), epochs=1, steps=3, seed=1)
    finally:
        sys.stdout, sys.stderr = streams  # robomimic puts its own in their place
    return made


def test_robomimic_opens_what_is_written_here(demonstrations: Path) -> None:
    files = import_robomimic("robomimic.utils.file_utils")
    env = files.get_env_metadata_from_dataset(str(demonstrations))
    assert env["env_name"] == WORLD.env_id
    specs = {"obs": {"low_dim": list(KEYS), "rgb": [], "depth": [], "scan": []}}
    import_robomimic("robomimic.utils.obs_utils").initialize_obs_utils_with_obs_specs(specs)
    shapes = files.get_shape_metadata_from_dataset(str(demonstrations), all_obs_keys=list(KEYS))
    assert shapes["ac_dim"] == 4
    assert dict(shapes["all_shapes"]) == {"proprio": [4], "object": [14], "goal": [3]}


def test_actions_are_robomimics_own(checkpoint: Path) -> None:
    policy = RobomimicPolicy(checkpoint)
    assert policy.label == "robomimic bc"
    files = import_robomimic("robomimic.utils.file_utils")
    rollout, _ = files.policy_from_checkpoint(torch.device("cpu"), ckpt_path=str(checkpoint))
    rollout.start_episode()
    rng = np.random.default_rng(0)
    obs = {key: rng.normal(size=(3, 2, n)) for key, n in zip(KEYS, (4, 14, 3), strict=True)}
    found = policy(obs | {"more": np.zeros((3, 2, 1))}, np.arange(3), np.zeros(3, np.int64))
    assert found.shape == (3, 1, 4)
    for i in range(3):
        theirs = rollout({key: values[i, -1] for key, values in obs.items()})
        np.testing.assert_allclose(found[i, 0], theirs, atol=1e-6)


def test_it_stands_in_the_same_table(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"policy=robomimic:{checkpoint}", "task=metaworld/reach", "episodes=2", "max_steps=12"]
    words += [f"output_dir={tmp_path}", "num_envs=2", "solve_batch=2", "latency_calls=2"]
    cli_eval.eval_main(compose("eval", words))
    report = json.loads((tmp_path / "eval.json").read_text())
    assert report["solver"]["label"] == "robomimic bc"
    assert [episode["steps"] for episode in report["episodes"]] == [12, 12]
    assert {"score", "success", "latency_ms", "hardware"} <= set(report)
    assert "robomimic bc" in capsys.readouterr().out


def test_what_does_not_load_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(PcmError, match="does not exist: name a checkpoint of robomimic"):
        RobomimicPolicy(tmp_path / "model.pth")
    (tmp_path / "model.pth").write_bytes(b"no checkpoint")
    with pytest.raises(PcmError, match="is no checkpoint of robomimic that loads") as caught:
        RobomimicPolicy(tmp_path / "model.pth")
    assert "\n" not in str(caught.value)
    found = torch.load(checkpoint, weights_only=True)
    config = json.loads(found["config"])
    config["algo"]["rnn"]["enabled"] = True
    torch.save(found | {"config": json.dumps(config)}, tmp_path / "rnn.pth")
    with pytest.raises(PcmError, match=r"rnn.pth"):
        RobomimicPolicy(tmp_path / "rnn.pth")
    obs = {"proprio": np.zeros((1, 1, 4))}
    with pytest.raises(PcmError, match="the observation lacks"):
        RobomimicPolicy(checkpoint)(obs, np.zeros(1, np.int64), np.zeros(1, np.int64))
