"""What may import what: the core runs where only torch and numpy are installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")
sys.meta_path.insert(0, Refuse())
"""
OTHERS = {
    "accelerate", "gymnasium", "hydra", "imageio", "matplotlib", "omegaconf", "safetensors",
    "tqdm", "zarr", "gym_pusht", "pymunk",
}  # fmt: skip


def run(blocked: set[str], code: str) -> None:
    program = BLOCK.format(blocked=blocked) + code
    subprocess.run([sys.executable, "-c", program], check=True)


def test_core_needs_torch_and_numpy_alone() -> None:
    run(
        OTHERS,
        """
import torch
from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.measure.bench import time_predictions
policy = DiffusionPolicy(PolicyConfig(3, 2, network_options={"width": 32, "depth": 1}))
policy.obs_normalizer.low.fill_(-1); policy.obs_normalizer.high.fill_(1)
(timed,) = time_predictions(policy, [policy.default_solver()], torch.zeros(1, 2, 3).numpy(), 2)
assert 0 < timed["p50"] <= timed["max"]
""",
    )


def test_files_need_safetensors_as_well() -> None:
    run(OTHERS - {"safetensors"}, "from pcm_policy.policy.folder import load_policy")


def test_training_needs_accelerate_as_well() -> None:
    run(
        OTHERS - {"safetensors", "accelerate", "tqdm"},
        "import pcm_policy.training.distillation, pcm_policy.training.loop",
    )


@pytest.mark.parametrize("folder", ["envs", "datasets"])
def test_environments_and_datasets_know_nothing_of_torch(folder: str) -> None:
    for file in (ROOT / folder).glob("*.py"):
        assert not re.search(r"^\s*(from|import) torch", file.read_text(), re.M), file


@pytest.mark.parametrize("folder", ["solvers", "heads", "networks"])
def test_maths_knows_nothing_of_files_and_simulators(folder: str) -> None:
    allowed = {
        "torch",
        "numpy",
        "pcm_policy",
        "collections",
        "dataclasses",
        "typing",
        "math",
        "copy",
    }
    for file in (ROOT / "pcm_policy" / folder).glob("*.py"):
        found = re.findall(r"^(?:from|import) (\w+)", file.read_text(), re.M)
        assert set(found) <= allowed | {"functools", "itertools"}, file
