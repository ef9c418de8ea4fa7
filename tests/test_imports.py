"""What may import what: the core runs where only torch and numpy are installed."""

import subprocess
import sys

import pytest

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
from pcm_policy.bench import run_bench
policy = DiffusionPolicy(PolicyConfig(3, 2, network_options={"width": 32, "depth": 1}))
policy.obs_normalizer.low.fill_(-1); policy.obs_normalizer.high.fill_(1)
report = run_bench(policy, torch.zeros(2, 2, 3), observations_used=2, calls=1)
assert len(report["rows"]) > 10
""",
    )


def test_files_need_safetensors_as_well() -> None:
    run(OTHERS - {"safetensors"}, "from pcm_policy.checkpoint import load_policy")


def test_training_needs_accelerate_as_well() -> None:
    run(
        OTHERS - {"safetensors", "accelerate", "tqdm"},
        "import pcm_policy.training.distillation, pcm_policy.training.loop",
    )


@pytest.mark.parametrize("module", ["pcm_policy.envs.pusht", "pcm_policy.datasets.replay"])
def test_environments_and_datasets_know_nothing_of_torch(module: str) -> None:
    code = f"import importlib.util, sys; import {module}"
    program = "import sys; import pcm_policy.errors\nbefore = set(sys.modules)\n" + code
    program += "\nnew = {n for n in set(sys.modules) - before if n.startswith('pcm_policy')}"
    program += "\nassert not any(n.startswith('pcm_policy.networks') for n in new), new"
    subprocess.run([sys.executable, "-c", program], check=True)
