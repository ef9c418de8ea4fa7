"""What result files say of how they were made is what ran."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pcm_policy.measure import conditions as module
from pcm_policy.measure.conditions import command_line, commit, conditions, said
from pcm_policy.policy.config import PolicyConfig
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.runtime.execute import Runtime

ROOT = Path(__file__).parents[2]


def small(dtype: torch.dtype = torch.float32) -> DiffusionPolicy:
    return DiffusionPolicy(PolicyConfig(3, 2, network_options={"width": 16, "depth": 1})).to(dtype)


RUNTIMES = [
    (RuntimeConfig(), torch.float32, "eager", "float32"),
    (RuntimeConfig("compile"), torch.float32, "compile", "float32"),
    (RuntimeConfig(precision="bf16"), torch.float32, "eager", "bf16"),
    (RuntimeConfig(precision="fp16"), torch.float32, "eager", "fp16"),
    (RuntimeConfig(), torch.float64, "eager", "float64"),
]


@pytest.mark.parametrize(("runtime", "dtype", "mode", "precision"), RUNTIMES)
def test_the_runtime_is_the_policys(
    runtime: RuntimeConfig, dtype: torch.dtype, mode: str, precision: str
) -> None:
    policy = small(dtype)
    policy.use(Runtime(policy, runtime))
    found = conditions(policy)
    assert found["runtime"] == {
        "mode": mode,
        "precision": precision,
        "tf32": False,
        "engine": f"torch {torch.__version__}",
        "threads": torch.get_num_threads(),
    }
    assert f"{mode}, {precision}" in said(found)


@pytest.mark.parametrize(("mode", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_an_engine_is_said_with_version_and_threads(mode: Any, package: str) -> None:
    module = pytest.importorskip(package)
    policy = small()
    assert conditions(policy)["runtime"]["mode"] == "eager"  # nothing was chosen
    policy.use(Runtime(policy, RuntimeConfig(mode, threads=3)))
    found = conditions(policy)
    assert found["runtime"]["mode"] == mode
    name, version = found["runtime"]["engine"].split()
    assert (name, found["runtime"]["threads"]) == (package, 3)
    assert module.__version__.startswith(version)
    assert f"3 threads, {mode}" in said(found)


def test_weights_have_a_fingerprint() -> None:
    policy, other = small(), small()
    before = conditions(policy)["weights"]
    assert before != conditions(other)["weights"]
    with torch.no_grad():
        next(policy.network.parameters()).add_(1e-3)
    assert conditions(policy)["weights"] != before
    assert set(before) == {"network"}
    released = DiffusionPolicy.from_pretrained("released/pusht_mlp")
    assert released.config.head is not None
    assert conditions(released)["weights"]["network"] == released.config.head.base
    assert "head" in conditions(released)["weights"]


def test_threads_and_device() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = conditions(small())["hardware"]
    finally:
        torch.set_num_threads(threads)
    assert found["threads"] == 3
    assert found["torch"] == torch.__version__
    assert found["device"]


SCRIPT = "from pcm_policy.measure.conditions import command_line; print(command_line())"


@pytest.mark.parametrize("words", [["loop", "a=1"], ["--x", "two words"], []])
def test_the_command_is_as_typed(words: list[str], tmp_path: Path) -> None:
    """Programs without their folders; subcommands that were taken off are there."""
    file = tmp_path / "pcm-some"
    file.write_text(f"import sys; sys.argv[1:] = sys.argv[2:]; {SCRIPT}")
    done = subprocess.run(
        [sys.executable, str(file), *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert shlex.split(done.stdout) == ["pcm-some", *words]


def test_a_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "orig_argv", ["/usr/bin/python3", "-m", "benchmarks.x", "--calls", "3"]
    )
    monkeypatch.setattr(sys, "argv", ["/somewhere/benchmarks/x.py", "--calls", "3"])
    assert command_line() == "python -m benchmarks.x --calls 3"


def test_the_commit_or_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{7,}\+?|pcm_policy [\d.]+|unknown", commit())
    monkeypatch.setattr(module, "ROOT", tmp_path)
    assert commit() == "pcm_policy 0.1.0"
