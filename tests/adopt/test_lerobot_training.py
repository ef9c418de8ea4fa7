"""``lerobot-train --policy.type=pcm``, and the way from its checkpoint to a head and back."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcm_policy import DiffusionPolicy
from pcm_policy.datasets.open import open_demonstrations
from tests.adopt.in_lerobot import ROOT, call

MAKE = Path(__file__).with_name("make_lerobot_dataset.py")
LAST = "checkpoints/000030/pretrained_model"
TRAIN = (
    "--policy.type=pcm",
    "--policy.device=cpu",
    "--policy.push_to_hub=false",
    '--policy.denoiser_options={"down_dims": [16, 32], "step_embed_dim": 32}',
    "--policy.optimizer_lr=1e-3",
    "--policy.scheduler_warmup_steps=0",
    "--dataset.repo_id=me/points",
    "--steps=30",
    "--batch_size=32",
    "--num_workers=0",
    "--log_freq=5",
    "--save_freq=15",
    "--seed=1",
    "--wandb.enable=false",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def commands(lerobot_python: str) -> Path:
    """The folder of an environment's commands."""
    found = Path(lerobot_python).parent
    if not (found / "lerobot-pcm").exists():
        pytest.skip(f"{found} has no lerobot-pcm: see lerobot_policy_pcm/README.md")
    return found


@pytest.fixture(scope="module")
def root(commands: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with LeRobot's dataset ``data`` and a run of 30 steps, ``run``; log in ``log``."""
    found = tmp_path_factory.mktemp("training")
    call(commands / "python", MAKE, found / "data", "30")  # 31 batches: all within one epoch
    words = (*TRAIN, f"--dataset.root={found}/data", f"--output_dir={found}/run")
    (found / "log").write_text(call(commands / "lerobot-train", *words))
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / LAST / "model.safetensors")


def test_the_loss_falls_and_the_average_follows(root: Path) -> None:
    losses = [float(x) for x in re.findall(r"loss:([\d.]+)", (root / "log").read_text())]
    assert len(losses) == 6
    assert losses[-1] < 0.95 * losses[0]
    found = weights(root / "run")
    assert int(found["learner.updates"]) == 30
    names = [k.removeprefix("learner.network.") for k in found if k.startswith("learner.network.")]
    apart = max(
        float((found[f"learner.network.{k}"] - found[f"pcm.network.{k}"]).abs().max())
        for k in names
    )
    assert 0 < apart < 0.05


def test_a_resumed_run_repeats_an_uninterrupted_one(root: Path, commands: Path) -> None:
    """Bit by bit where LeRobot resumes the order of the data: 0.6.1 does within an epoch."""
    again = root / "again"
    shutil.copytree(root / "run", again, symlinks=True)
    shutil.rmtree(again / "checkpoints/000030")
    (again / "checkpoints/last").unlink()
    (again / "checkpoints/last").symlink_to("000015")
    config = again / "checkpoints/000015/pretrained_model/train_config.json"
    config.write_text(config.read_text().replace(f"{root}/run", str(again)))
    call(commands / "lerobot-train", f"--config_path={config}", "--resume=true")
    whole, resumed = weights(root / "run"), weights(again)
    assert list(whole) == list(resumed)
    assert int(resumed["learner.updates"]) == 30
    version = "from importlib.metadata import version; print(version('lerobot'))"
    if call(commands / "python", "-c", version).strip() != "0.4.4":  # which keeps no order
        assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def evaluated(commands: Path, policy: Path, target: Path, *settings: str) -> str:
    return call(
        commands / "lerobot-eval",
        f"--policy.path={policy}",
        "--policy.device=cpu",
        "--env.type=pusht",
        "--env.obs_type=environment_state_agent_pos",
        "--env.episode_length=20",
        "--eval.n_episodes=1",
        "--eval.batch_size=1",
        f"--output_dir={target}",
        *settings,
    )


def test_its_checkpoint_runs_and_gets_a_head(root: Path, commands: Path, tmp_path: Path) -> None:
    """The checkpoint runs as it is; back in our format it is distilled, and that runs too."""
    settings = "--policy.solver=picard", "--policy.tolerance=1e-3"
    evaluated(commands, root / "run" / LAST, tmp_path / "eval", *settings)
    line = call(commands / "lerobot-pcm", root / "run", tmp_path / "back").splitlines()[-1]
    assert "sees observation.state, observation.environment_state; ddim-16" in line
    policy = DiffusionPolicy.from_pretrained(tmp_path / "back")
    arrays = open_demonstrations(root / "data").arrays
    for name, normalizer, columns in (
        ("observation.state", policy.obs_normalizer, slice(2)),
        ("action", policy.action_normalizer, slice(None)),
    ):
        assert normalizer.low[columns].tolist() == arrays[name].min(0).tolist()
        assert normalizer.high[columns].tolist() == arrays[name].max(0).tolist()
    assert policy.config.control_hz == 10
    words = [f"policy={tmp_path}/back", f"dataset.path={root}/data", f"output_dir={tmp_path}/head"]
    command = [sys.executable, "-m", "pcm_policy.cli", "distill", *words]
    subprocess.run(
        [*command, "train.steps=5", "train.batch=8"], check=True, cwd=ROOT, capture_output=True
    )
    line = call(commands / "lerobot-pcm", tmp_path / "head/policy", tmp_path / "folder")
    assert line.splitlines()[-1].endswith("; pcm 2 (ddim-16)")
    evaluated(commands, tmp_path / "folder", tmp_path / "eval2")
    info = json.loads((tmp_path / "eval2/eval_info.json").read_text())
    assert info["overall"]["n_episodes"] == 1


def test_training_goes_on_from_a_folder(root: Path, commands: Path, tmp_path: Path) -> None:
    """What ``lerobot-pcm`` wrote holds no weights of an optimiser: they begin as those that ran."""
    call(commands / "lerobot-pcm", root / "run", tmp_path / "back")
    call(commands / "lerobot-pcm", tmp_path / "back", tmp_path / "folder")
    begun = load_file(tmp_path / "folder/model.safetensors")
    assert not [name for name in begun if name.startswith("learner.")]
    words = [word for word in TRAIN if not word.startswith(("--policy.type", "--policy.denoiser"))]
    words += [f"--policy.path={tmp_path}/folder", "--steps=1", f"--dataset.root={root}/data"]
    call(commands / "lerobot-train", *words, f"--output_dir={tmp_path}/run")
    found = load_file(tmp_path / "run/checkpoints/last/pretrained_model/model.safetensors")
    assert int(found["learner.updates"]) == 1
    for name in ("scale", "shift", "low", "high"):
        key = f"pcm.obs_normalizer.{name}"
        assert torch.equal(found[key], begun[key])
    key = next(name for name in begun if name.startswith("pcm.network."))
    assert 0 < float((found[key] - begun[key]).abs().max()) < 0.01


REFUSED = """
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot_policy_pcm import PCMConfig
from lerobot_policy_pcm.modeling_pcm import PCMPolicy
state = {"observation.state": PolicyFeature(FeatureType.STATE, (2,))}
image = {"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 8, 8))}
action = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
ends = {"min": torch.zeros(2), "max": torch.ones(2)}
stats = {"observation.state": ends, "action": ends}
def new(inputs, outputs, stats, **more):
    config = PCMConfig(input_features=inputs, output_features=outputs, device="cpu", **more)
    return PCMPolicy(config, dataset_stats=stats)
for args, more in (
    ((state | image, action, stats), {}),
    (({}, action, stats), {}),
    ((state, action, {"action": ends}), {}),
    ((state, action | {"action.hand": action["action"]}, stats), {}),
    ((state, action, stats), {"denoiser": "resnet"}),
    ((state, action, stats), {"schedule": "flow", "prediction": "epsilon"}),
    ((state, action, None), {}),
):
    try:
        new(*args, **more)
    except Exception as error:
        print(type(error).__name__, "|", error)
seen = new(state | image, action, stats, obs_entries=["observation.state"])
print("trains without", seen.seen)
flow = new(state, action, stats, schedule="flow", denoiser="mlp", prefix_steps=4, horizon=8,
           n_action_steps=4, denoiser_options={"width": 16, "depth": 1})
batch = {"observation.state": torch.rand(5, 2, 2), "action": torch.rand(5, 8, 2)}
loss, _ = flow(batch)
loss.backward()
print("flow", flow.solver.label, bool(loss > 0), flow.config.drop_n_last_frames)
def host(*_, **__):
    raise AssertionError("a tensor left its device")
torch.Tensor.cpu = torch.Tensor.numpy = host
frame = {"observation.state": torch.rand(3, 2)}
flow.eval().select_action(frame)
flow.reset()
first = flow.predict_action_chunk(frame, inference_delay=0)
left = torch.nn.functional.pad(first[:, 4:], (0, 0, 0, 7))
second = flow.predict_action_chunk(frame, inference_delay=2, prev_chunk_left_over=left)
print("device", tuple(second.shape), torch.equal(second[:, :2], left[:, :2]))
"""


def test_what_it_is_not_trained_on_is_one_line(commands: Path) -> None:
    """And what it is trained on; such a policy calls neither ``Tensor.cpu`` nor ``numpy``."""
    lines = call(commands / "python", "-c", REFUSED).strip().splitlines()[-10:]
    wanted = (
        "the dataset has cameras (observation.image), which lerobot-train --policy.type=pcm does",
        "the dataset has no observation.state and no other observation",
        "the dataset has no min and max of observation.state in its statistics",
        "the dataset has the actions ['action', 'action.hand']: use one",
        "resnet",
        "a flow takes flow_velocity or sample",
        "--policy.type=pcm has no policy: write a folder with lerobot-pcm, or train one with",
    )
    for line, part in zip(lines, wanted, strict=False):
        assert line.startswith("PcmError | "), line
        assert part in line
    assert lines[7:9] == ["trains without ('observation.state',)", "flow flow_euler-10 True 3"]
    assert lines[9] == "device (3, 7, 2) True"
