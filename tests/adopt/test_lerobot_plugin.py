"""LeRobot's own command runs an imported policy through the plugin, as LeRobot runs the original.

``PCM_LEROBOT_PYTHON`` names Pythons of environments made by ``benchmarks/lerobot/env.py``; all runs
in each of them, with this checkout's package and plugin.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pcm_policy.adopt import read
from pcm_policy.policy.folder import save_policy
from tests.adopt.in_lerobot import call

MAKE = Path(__file__).with_name("make_lerobot.py")
PUSHT = {"env_width": 16, "range": [0, 512]}  # what LeRobot's Push-T shows: agent, eight keypoints
DDIM = {"noise_scheduler_type": "DDIM", "num_inference_steps": 8}


@pytest.fixture(scope="module")
def commands(lerobot_python: str) -> Path:
    """The folder of an environment's commands."""
    found = Path(lerobot_python).parent
    if not (found / "lerobot-pcm").exists():
        pytest.skip(f"{found} has no lerobot-pcm: see lerobot_policy_pcm/README.md")
    return found


@pytest.fixture(scope="module")
def folders(commands: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The original, trained for a few steps, our import of it, and that as a LeRobot folder."""
    root = tmp_path_factory.mktemp("plugin")
    call(commands / "python", MAKE, root / "original", json.dumps(PUSHT | DDIM))
    save_policy(read(root / "original").policy(), root / "imported")
    line = call(commands / "lerobot-pcm", root / "imported", root / "pcm")
    assert "observation.state, observation.environment_state; ddim-8" in line
    return {name: root / name for name in ("original", "imported", "pcm")}


def rewards(commands: Path, policy: Path, target: Path, *settings: str) -> tuple[Any, str]:
    """Return both episodes' rewards and the log of ``lerobot-eval``."""
    log = call(
        commands / "lerobot-eval",
        f"--policy.path={policy}",
        "--env.type=pusht",
        "--env.obs_type=environment_state_agent_pos",
        "--env.episode_length=40",
        "--eval.n_episodes=2",
        "--eval.batch_size=2",
        "--eval.use_async_envs=false",  # 0.6.1's workers do not know gym_pusht
        f"--output_dir={target}",
        *settings,
    )
    info = json.loads((target / "eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 2
    return info["per_task"][0]["metrics"]["sum_rewards"], log


@pytest.mark.slow
def test_lerobot_eval_runs_it_as_it_runs_the_original(
    commands: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    # without a head both draw as many initial weights before the noise: they see the same noise
    theirs, _ = rewards(commands, folders["original"], tmp_path / "a")
    ours, log = rewards(commands, folders["pcm"], tmp_path / "b")
    assert "Imported third-party plugin: lerobot_policy_pcm" in log
    settings = "--policy.solver=picard", "--policy.tolerance=1e-5"
    parallel, log = rewards(commands, folders["pcm"], tmp_path / "c", *settings)
    assert "'solver': 'picard'" in log
    assert max(theirs) > 0
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert parallel == pytest.approx(theirs, abs=1e-3)


SAME = """
import sys, torch
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.configs.policies import PreTrainedConfig
from lerobot.utils.import_utils import register_third_party_plugins
register_third_party_plugins()
found = {}
for name, path in (("original", sys.argv[1]), ("pcm", sys.argv[2])):
    config = PreTrainedConfig.from_pretrained(path)
    policy = get_policy_class(config.type).from_pretrained(path, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=path)
    generator = torch.Generator().manual_seed(0)
    actions = []
    for step in range(20):
        noise = torch.randn(3, 16, 2, generator=generator)
        seen = {"observation.state": 512 * torch.rand(3, 2, generator=generator)}
        seen["observation.environment_state"] = 512 * torch.rand(3, 16, generator=generator)
        if "camera" in sys.argv[1]:
            image = torch.randint(0, 256, (3, 3, 96, 96), generator=generator)
            seen["observation.image"] = image.float() / 255
        actions.append(after(policy.select_action(before(seen), noise=noise)))
    policy.reset()
    chunk = policy.predict_action_chunk(before(seen)) if name == "pcm" else None
    found[name] = torch.stack(actions)
assert chunk.shape == (3, 8, 2), chunk.shape
print("largest difference", float((found["original"] - found["pcm"]).abs().max()))
"""


def test_actions_are_the_originals(commands: Path, folders: dict[str, Path]) -> None:
    """Same noise, 20 steps of three rows: two chunks and the start of a third; pixels."""
    log = call(commands / "python", "-c", SAME, folders["original"], folders["pcm"])
    assert float(log.strip().splitlines()[-1].split()[-1]) < 0.05  # 1e-4 of the range


@pytest.mark.slow
def test_a_policy_with_a_camera(commands: Path, tmp_path: Path) -> None:
    settings = PUSHT | DDIM | {"cameras": {"observation.image": [96, 96]}, "crop_shape": [84, 84]}
    original = tmp_path / "camera"
    call(commands / "python", MAKE, original, json.dumps(settings))
    save_policy(read(original).policy(), tmp_path / "imported")
    line = call(commands / "lerobot-pcm", tmp_path / "imported", tmp_path / "pcm")
    assert "observation.environment_state, observation.image; ddim-8" in line
    log = call(commands / "python", "-c", SAME, original, tmp_path / "pcm")
    assert float(log.strip().splitlines()[-1].split()[-1]) < 0.05


def test_mistakes_are_one_line(commands: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    log = call(commands / "lerobot-pcm", "released/pusht", tmp_path / "no", check=False)
    assert log.startswith("lerobot-pcm: error: released/pusht sees ")
    assert "give LeRobot's names in that order, as --obs" in log
    assert not list(tmp_path.iterdir())
    command = [commands / "lerobot-eval", f"--policy.path={folders['pcm']}", "--env.type=pusht"]
    command += ["--policy.solver=pcm", f"--output_dir={tmp_path}"]
    log = call(*command, "--env.obs_type=environment_state_agent_pos", check=False)
    assert "this policy has no PCM head: run pcm-distill" in log.strip().splitlines()[-1]
