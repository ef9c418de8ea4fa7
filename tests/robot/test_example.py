"""The example in ``examples/robot_local.py`` drives a simulator by a folder, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcm_policy.control import ControlSettings
from pcm_policy.export import export_robot
from tests.builders import small_policy

ROOT = Path(__file__).parents[2]
CHECK = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "torch" not in sys.modules
"""


def test_the_example_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("gym_pusht", reason="pip install 'pcm_policy[pusht]'")
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    policy = small_policy(obs_dim=20)
    for normalizer in (policy.obs_normalizer, policy.action_normalizer):
        normalizer.low.fill_(0.0)
        normalizer.high.fill_(512.0)
        normalizer.scale.fill_(1 / 256)
        normalizer.shift.fill_(-1.0)
    policy.check()
    solver = policy.solver({"method": "picard", "rounds": 1})
    settings = ControlSettings(mode="async", low=(0.0, 0.0), high=(512.0, 512.0))
    with torch.random.fork_rng():
        export_robot(policy, solver, tmp_path / "robot", settings)
    said = [r for r in caplog.records if r.name.startswith("onnx") and r.levelname == "WARNING"]
    assert said == []
    words = [str(ROOT / "examples/robot_local.py"), str(tmp_path / "robot"), "30", "20"]
    done = subprocess.run(
        [sys.executable, "-c", CHECK, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("score ")
    assert "'plans': " in done.stdout


def test_the_example_is_short() -> None:
    lines = (ROOT / "examples/robot_local.py").read_text().split('"""')[2].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 36
