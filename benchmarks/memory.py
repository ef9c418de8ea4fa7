"""Memory of one process that evaluates a policy on Push-T, and what it is made of (docs/scale.md).

    python -m benchmarks.memory [--policy released/pusht_mlp] [--episodes 8]

Every row is a process of its own. ``peak`` is its largest resident set (``VmHWM``), ``own`` what no
other process shares at the end (``Private_*`` of ``smaps_rollup``): a further worker on the same
machine takes that much. The first rows import one thing on top of another; the last ones are
``pcm-eval`` and ``examples/robot_evaluate.py``, which has no torch.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import RESULTS
from pcm_policy.export import export_robot
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by, versions, weights
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy

FILE = RESULTS / "scale/memory.json"
HEAD = ["process", "peak, MB", "own, MB", "limit, MB"]
LIMITS = {"pcm-eval": 350.0, "robot_evaluate.py": 150.0}
"""What the whole processes may take, in MB."""
END = """
import re, sys
def of(path, name):
    said = re.findall(rf"^{name}:\\s+(\\d+) kB", open(f"/proc/self/{path}").read(), re.M)
    return sum(map(int, said)) * 1024 / 1e6
print(of("status", "VmHWM"), of("smaps_rollup", "Private_(?:Clean|Dirty)"), file=sys.stderr)
"""
SIMULATOR = """
import gymnasium, numpy
env = gymnasium.make("pcm_policy.envs:pcm_policy/PushTKeypoints-v0")
obs = env.reset(seed=0)[0]
env.step(numpy.zeros(2))
"""
TORCH = "import torch\ntorch.set_num_threads(1)\n"
POLICY = """
from pcm_policy import DiffusionPolicy
policy = DiffusionPolicy.from_pretrained({policy!r})
policy.predict([[256.0] * 20] * 2)
"""
ROBOT = """
from pcm_policy.robot import load
load({folder!r}).predict([[256.0] * 20] * 2)
"""
EVALUATION = """
from pcm_policy.cli.main import run_command
words = ["policy={policy}", "task=pusht", "episodes={episodes}", "output_dir={output}"]
words += ["latency_calls=0", "threads=1", "device=cpu", "num_envs={envs}", "solve_batch={envs}"]
run_command("eval", argv=words)
"""
EXAMPLE = """
import runpy, sys
sys.argv = ["robot_evaluate.py", {folder!r}, "{episodes}"]
runpy.run_path("examples/robot_evaluate.py", run_name="__main__")
assert "torch" not in sys.modules
"""


def rows_of(policy: str, episodes: int, scratch: Path) -> dict[str, str]:
    """Return what every row runs."""
    given = {"policy": policy, "episodes": episodes, "folder": str(scratch / "robot")}
    return {
        "Python and NumPy": "import numpy",
        "... and torch": "import numpy\n" + TORCH,
        "... and the policy": TORCH + POLICY.format(**given),
        "... and the simulator": TORCH + POLICY.format(**given) + SIMULATOR,
        "pcm-eval": EVALUATION.format(**given, envs=1, output=scratch / "one"),
        "pcm-eval, 50 side by side": EVALUATION.format(
            **given | {"episodes": 50}, envs=50, output=scratch / "fifty"
        ),
        "NumPy and the simulator": SIMULATOR,
        "NumPy, ONNX Runtime and the policy": ROBOT.format(**given),
        "robot_evaluate.py": EXAMPLE.format(**given),
    }


def measured(code: str) -> dict[str, float]:
    """Run code in a fresh process; returns its memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", code + END],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    peak, own = map(float, done.stderr.split()[-2:])
    return {"peak_mb": peak, "own_mb": own}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--episodes", type=int, default=8)
    asked = parser.parse_args(argv)
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        policy = DiffusionPolicy.from_pretrained(asked.policy)
        export_robot(policy, policy.default_solver(), Path(scratch) / "robot")
        for name, code in rows_of(asked.policy, asked.episodes, Path(scratch)).items():
            found[name] = measured(code) | {"limit_mb": LIMITS.get(name)}
    report = {
        "policy": asked.policy,
        "weights": weights(DiffusionPolicy.from_pretrained(asked.policy)),
        "episodes": asked.episodes,
        "rows": found,
        "versions": versions("onnxruntime", "gymnasium", "gym-pusht"),
        **made_by(),
        "hardware": hardware(torch.device("cpu")),
    }
    write_text(FILE, to_json(report))
    print(table(HEAD, lines(report)))


def lines(report: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table."""
    found = []
    for name, row in report["rows"].items():
        limit = "" if row["limit_mb"] is None else f"{row['limit_mb']:.0f}"
        found.append([name, f"{row['peak_mb']:.0f}", f"{row['own_mb']:.0f}", limit])
    return found


if __name__ == "__main__":
    main()
