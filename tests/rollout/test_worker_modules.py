"""What a process that evaluates loads, and what it must not: memory is paid once a process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pcm_policy.cli.main import run_command
from pcm_policy.export import export_robot
from pcm_policy.policy.policy import DiffusionPolicy

pytest.importorskip("pymunk")
ROOT = Path(__file__).parents[2]
POLICY = "released/pusht_mlp"
NOT_NEEDED = {
    "accelerate", "av", "diffusers", "h5py", "imageio", "imageio_ffmpeg", "matplotlib", "onnx",
    "onnxruntime", "onnxscript", "openvino", "pandas", "PIL", "pyarrow", "ray", "scipy", "sklearn",
    "sympy",
    "torch._dynamo", "torch._inductor", "torchvision", "websockets", "zarr",
}  # fmt: skip
"""Of films, training, other formats and engines, compiling, serving."""
CHECK = """
import sys
loaded = {{name for name in sys.modules if sys.modules[name] is not None}}
assert not loaded & {names!r}, sorted(loaded & {names!r})
"""
EVALUATE = """
from pcm_policy.cli.main import run_command
run_command("eval", argv={words!r})
"""
EXAMPLE = """
import runpy, sys
sys.argv = {words!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(code: str, names: set[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code + CHECK.format(names=names)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "more", [(), ("shard=1", "shards=2"), ("latency=steps", "latency.steps=0")]
)
def test_an_evaluation_loads_what_it_needs(more: tuple[str, ...], tmp_path: Path) -> None:
    words = [f"policy={POLICY}", "task=pusht", "episodes=2", "max_steps=8", "latency_calls=1"]
    words += ["num_envs=1", "solve_batch=1", "device=cpu", "threads=1", f"output_dir={tmp_path}"]
    run(EVALUATE.format(words=[*words, *more]), NOT_NEEDED)


def test_an_evaluation_without_torch(tmp_path: Path) -> None:
    """The example's scores are those of the policy that its folder was made from."""
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    policy = DiffusionPolicy.from_pretrained(POLICY)
    export_robot(policy, policy.default_solver(), tmp_path / "robot")
    words = ["examples/robot_evaluate.py", str(tmp_path / "robot"), "2", "100000"]
    own = NOT_NEEDED - {"onnxruntime"} | {"torch", "hydra", "omegaconf", "safetensors"}
    said = json.loads(run(EXAMPLE.format(words=words), own))
    eval_words = [f"policy={POLICY}", "task=pusht", "episodes=2", "latency_calls=0", "num_envs=1"]
    eval_words += ["solve_batch=1", "device=cpu", "threads=1", f"output_dir={tmp_path / 'eval'}"]
    run_command("eval", argv=eval_words)
    wanted = json.loads((tmp_path / "eval/eval.json").read_text())
    assert [e["seed"] for e in said["episodes"]] == [100000, 100001]
    for mine, theirs in zip(said["episodes"], wanted["episodes"], strict=True):
        assert mine["score"] == pytest.approx(theirs["score"], abs=0.03)
