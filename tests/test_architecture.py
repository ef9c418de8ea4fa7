"""What may import what, how long a function may be, and where the package needs what installed."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 60
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


def sources(*folders: str) -> list[Path]:
    return [f for folder in folders for f in sorted((ROOT / folder).rglob("*.py"))]


def test_rooms_import_from_the_rooms_below_them() -> None:
    """The contracts are in pyproject.toml; import-linter follows the links to envs and datasets."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " 0 broken" in done.stdout


def test_every_contract_sees_the_whole_package() -> None:
    """A room that is not among the floors fails there; this guards the other contracts."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    rooms = {p.stem for p in (ROOT / "pcm_policy").iterdir() if p.suffix in ("", ".py")}
    for contract in settings["contracts"]:
        for name in contract.get("source_modules", []) + contract.get("forbidden_modules", []):
            package, _, room = name.partition(".")
            assert package != "pcm_policy" or room.split(".")[0] in rooms, name


def test_the_top_of_the_package_stays_small() -> None:
    modules = [p.name for p in (ROOT / "pcm_policy").glob("*.py")]
    assert len(modules) <= 10, modules


def lengths(file: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def test_functions_are_short() -> None:
    for file in sources("envs", "datasets", "pcm_policy", "benchmarks"):
        assert not {name for name, lines in lengths(file) if lines > LONGEST}, file


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


def test_a_robot_has_no_torch() -> None:
    modules = [
        f"pcm_policy.{room}.{file.stem}"
        for room in ("control", "robot")
        for file in sources(f"pcm_policy/{room}")
        if file.stem != "__init__"
    ]
    run(OTHERS | {"torch", "torchvision"}, f"import pcm_policy, {', '.join(modules)}")


@pytest.mark.parametrize("folder", ["sampling", "solvers", "heads", "networks"])
def test_maths_knows_nothing_of_files_and_simulators(folder: str) -> None:
    """The contracts forbid packages by name; this allows by name, the standard library's too."""
    allowed = {"torch", "numpy", "pcm_policy", "collections", "dataclasses", "typing", "math"}
    allowed |= {"copy", "functools", "itertools", "enum", "abc", "time", "inspect", "__future__"}
    for file in sources(f"pcm_policy/{folder}"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= allowed, f"{file}:{node.lineno}"
