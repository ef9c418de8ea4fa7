"""Packages give eager execution's chunk, in processes that cannot import this package."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import pcm_policy.export.packages as export_module
from pcm_policy import DiffusionPolicy
from pcm_policy.cli.compose import compose
from pcm_policy.cli.export import export_main
from pcm_policy.errors import PcmError
from pcm_policy.export import example, export
from pcm_policy.sampling.noise import Noise
from pcm_policy.training.headed import with_head
from tests.exporting import needs_exporter

GOLDEN = Path(__file__).parents[1] / "golden"
ALONE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"pcm_policy", "hydra", "omegaconf", "accelerate"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
from safetensors.numpy import load_file
tensors = load_file(sys.argv[1] + "/example.safetensors")
expected = tensors.pop("chunk")
names = [name for name in ("obs", "initial", "steps") if name in tensors]
"""
LOAD = {
    "export": """
import torch
call = torch.export.load(sys.argv[1] + "/policy.pt2").module()
""",
    "aoti": """
import torch
call = torch._inductor.aoti_load_package(sys.argv[1] + "/policy_aoti.pt2")
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1] + "/policy.onnx")
found = session.run(None, {name: tensors[name] for name in names})[0]
assert "torch" not in sys.modules
""",
}
RUN = """
found = call(*(torch.from_numpy(tensors[name]) for name in names)).detach().numpy()
"""
COMPARE = """
print(abs(found - expected).max())
"""


def run_alone(name: str, folder: Path) -> float:
    code = ALONE + LOAD[name] + ("" if name == "onnx" else RUN) + COMPARE
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.strip().splitlines()[-1])


def written(name: str, tmp_path: Path, policy: str, *words: str) -> None:
    if name == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'pcm_policy[export]'")
        needs_exporter()
    if name == "aoti" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    settings = [f"policy={GOLDEN / policy}", f"output_dir={tmp_path}", f"formats=[{name}]"]
    report = export_main(compose("export", [*settings, "calls=3", *words]))
    assert report["packages"][name]["difference"] < 1e-4
    assert run_alone(name, tmp_path) < 1e-4
    kept = json.loads((tmp_path / "export.json").read_text())
    assert kept["executed_steps"] == [1, 5]
    tensors = load_file(tmp_path / "example.safetensors")
    loaded = DiffusionPolicy.from_pretrained(GOLDEN / policy)
    noise = Noise(tensors["initial"], tensors.get("steps"))
    solver = loaded.solver(kept_solver(words))
    chunk = loaded.predict(tensors["obs"].numpy(), solver=solver, noise=noise).chunk
    torch.testing.assert_close(torch.from_numpy(chunk), tensors["chunk"], rtol=0, atol=1e-5)


def kept_solver(words: tuple[str, ...]) -> dict[str, object]:
    values = dict(word.partition("=")[::2] for word in words)
    named = {"method": {"pcm": "pcm", "picard": "picard", "ddpm": "sequential"}[values["solver"]]}
    return named | ({"rounds": int(values["solver.rounds"])} if "solver.rounds" in values else {})


def test_pcm_in_onnx(tmp_path: Path) -> None:
    written("onnx", tmp_path, "mlp_window", "solver=pcm", "solver.rounds=1")


def test_a_head_over_few_nodes_that_guesses_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="pip install 'pcm_policy[export]'")
    base = DiffusionPolicy.from_pretrained(GOLDEN / "mlp_window")
    options = {"width": 16, "nodes": 3, "guess_width": 8, "newton": True}
    policy = with_head(base, {"name": "window", "options": options}, {"steps": 6}, seed=0)
    torch.manual_seed(0)
    assert policy.head is not None
    for weight in policy.head.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    policy.head.diagonal.fill_(0.3)  # type: ignore[operator, union-attr]
    solver = policy.solver({"method": "pcm", "rounds": 2})
    _, found = export(policy, solver, tmp_path, ["onnx"], example(policy, solver, 1, 0), calls=1)
    assert found["onnx"].difference < 1e-3


def test_ddpm_with_noise_of_every_step(tmp_path: Path) -> None:
    written("export", tmp_path, "unet1d", "solver=picard", "solver.rounds=2", "batch=2")


@pytest.mark.slow
def test_pcm_in_aoti(tmp_path: Path) -> None:
    written("aoti", tmp_path, "mlp_window", "solver=pcm", "solver.rounds=1")


def test_refusals(tmp_path: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(GOLDEN / "mlp_window")
    for values in ({"method": "picard", "tolerance": 1e-3}, {"method": "pcm", "deadline_ms": 5}):
        solver = policy.solver(values)
        inputs = example(policy, solver, 1, 0)
        with pytest.raises(PcmError, match="a package has a fixed number of rounds"):
            export(policy, solver, tmp_path, ["export"], inputs)
    solver = policy.solver({"method": "pcm", "rounds": 1})
    with pytest.raises(PcmError, match="formats has 'tflite': use export, aoti, onnx"):
        export(policy, solver, tmp_path, ["tflite"], inputs)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_of_steps_is_compared_without_gradients(tmp_path: Path) -> None:
    settings = compose(
        "export",
        [
            "policy=released/pusht_mlp",
            "solver=ddim",
            "solver.steps=2",
            "formats=[export]",
            f"output_dir={tmp_path}",
        ],
    )
    export_main(settings)
    assert (tmp_path / "policy.pt2").exists()


def test_what_was_not_compared_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(program: object, path: Path) -> object:
        path.write_text("half")

        def fails(inputs: object) -> None:
            raise RuntimeError("no such kernel")

        return fails

    monkeypatch.setitem(export_module._WRITE, "export", write)
    words = ["policy=released/pusht_mlp", "formats=[export]", f"output_dir={tmp_path}"]
    with pytest.raises(RuntimeError, match="no such kernel"):
        export_main(compose("export", words))
    assert not (tmp_path / "policy.pt2").exists()
