"""A solver of one's own: one file and one YAML outside the package, in every command and mode."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcm_policy.cli.main import run_command
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime
from pcm_policy.solvers.registry import flat
from tests.builders import OBS_DIM, small_policy

FILE = """\
from dataclasses import dataclass, replace
import torch
from pcm_policy.solvers import STEPS, Picard, Step
from pcm_policy.solvers.settings import setting

@STEPS.add("damped")
@dataclass(frozen=True)
class Damped(Step):
    \"\"\"Go a share of the way.\"\"\"

    share: float = setting(0.5, above=0, most=1)
    inner: Step = Picard()

    def init(self, s):
        return self.inner.init(s)

    def step(self, s, x, memory):
        r, memory = self.inner.step(s, x, memory)
        return replace(r, X=torch.lerp(x.X, r.X, self.share)), memory
"""
YAML = "method: damped_step:Damped\nshare: 0.8\n"
ROOT = Path(__file__).parents[2]
ON_DEVICE = """
from damped_step import Damped
from tests.accelerator import grid
from tests.accelerator.device import accelerator

grid.SOLVERS["damped"] = Damped(), 3
with accelerator() as grid.gpu:
    for stop in grid.STOPS:
        for dtype, prefix in (("float32", "none"), ("float16", "shown")):
            grid.solves("mlp", "none", "ddim", "damped", stop, prefix, "none", dtype)
        print(stop)
"""
POLICY = "released/pusht_mlp"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "damped_step.py").write_text(FILE)
    (tmp_path / "solver").mkdir()
    (tmp_path / "solver/damped.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_it_is_short() -> None:
    assert len(FILE.splitlines()) < 30
    assert len(YAML.splitlines()) == 2


@pytest.mark.parametrize(("mode", "rounds"), [("eager", 6), ("onnx", 2)])
def test_it_evaluates(folder: Path, mode: str, rounds: int) -> None:
    """An engine records every round, for seconds each."""
    words = [f"policy={POLICY}", "solver=damped", f"output_dir={folder}/out"]
    words += [f"solver.rounds={rounds}", "num_envs=1", "solve_batch=1"]
    words += ["episodes=1", "max_steps=8", "latency_calls=1", f"runtime.mode={mode}"]
    run_command("eval", argv=["--config-dir", str(folder), *words])
    found = json.loads((folder / "out/eval.json").read_text())
    assert "damped" in json.dumps(found["solver"])


@pytest.mark.usefixtures("brief")
def test_it_is_timed(folder: Path) -> None:
    words = [f"policy={POLICY}", f"output_dir={folder}/out", "methods=[damped_step:Damped]"]
    run_command("bench", argv=[*words, "calls=1", "observations=2"])
    rows = json.loads((folder / "out/bench.json").read_text())["rows"]
    assert any("damped" in json.dumps(row) for row in rows)


@pytest.mark.usefixtures("brief")
def test_it_is_tried_for_a_target(folder: Path) -> None:
    words = [f"policy={POLICY}", f"output_dir={folder}/out", "methods=[damped_step:Damped]"]
    words += ["error=0.5", "search=[]", "calls=1", "observations=2", "modes=[eager]"]
    run_command("bench tune", argv=words)
    assert "damped" in (folder / "out/tune.json").read_text()
    assert (folder / "out/solver/tuned.yaml").exists()


def test_it_does_not_stall_the_simulated_device(folder: Path) -> None:
    """In a process of its own, as the grid; every stop, plain and around quasi-Newton rounds."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-c", ON_DEVICE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["rounds", "tolerance", "settle"]


def test_settings_round_trip_and_are_checked(folder: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(POLICY)
    solver = policy.solver({"method": "damped_step:Damped", "share": 0.7, "window": 9})
    assert policy.solver(flat(solver)) == solver
    assert solver.label == "damped share 0.7 inner picard window 9 tol 0.001 (ddim-16)"
    with pytest.raises(PcmError, match=r"solver\.share=0: use a finite number above 0"):
        policy.solver({"method": "damped_step:Damped", "share": 0})
    with pytest.raises(PcmError, match="has no setting speed: it has share, inner, window"):
        policy.solver({"method": "damped_step:Damped", "speed": 1})
    with pytest.raises(PcmError, match="damped_step has no Step of that name"):
        policy.solver({"method": "damped_step:Picar"})


@pytest.mark.parametrize(
    "stop", [{"rounds": 3}, {"tolerance": 1.0, "rounds": 2}, {"settle": 0.1, "rounds": 3}]
)
def test_every_mode_is_the_eager_solve(folder: Path, stop: dict[str, float]) -> None:
    """Its rounds are recorded one by one where the stop looks at each: few, of a small network."""
    policy = small_policy("mlp")
    solver = policy.solver({"method": "damped_step:Damped", **stop})
    obs = torch.rand(2, 2, OBS_DIM, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = policy.draw_noise(2, solver.sampler, torch.Generator().manual_seed(1))
    want = policy.solve(obs, solver, noise)
    runtime = Runtime(policy, RuntimeConfig(mode="onnx"))
    found = policy.solve(obs, solver, noise, execute=runtime)
    assert found.rounds == want.rounds
    assert 1 < found.rounds < 4
    torch.testing.assert_close(found.sample, want.sample, rtol=0, atol=1e-5)
    assert torch.equal(found.certified, want.certified)
