"""Policies of format version 1, as they were written, still load and still compute the same.

How golden policies are made and when they may change: ``tests/golden/make.py``.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.policy.config_file import FORMAT_VERSION
from pcm_policy.sampling.noise import Noise
from tests.golden import cameras
from tests.golden.make import POLICIES, solvers

GOLDEN = Path(__file__).parents[1] / "golden"

TOLERANCE = 2e-5  # float32 kernels differ between machines


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_chunks(name: str) -> None:
    policy = DiffusionPolicy.from_pretrained(GOLDEN / name)
    expected = load_file(GOLDEN / name / "expected.safetensors")
    for label, solver in solvers(policy).items():
        stochastic = policy.sampler(solver.sampler).stochastic
        noise = Noise(expected["initial"], expected["steps"] if stochastic else None)
        chunk = policy.solve(expected["obs"], solver, noise).chunk
        torch.testing.assert_close(chunk, expected[label], rtol=TOLERANCE, atol=TOLERANCE)


def of_old(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Settings of ``new`` that ``old`` has too, those within its settings as well."""
    return {k: of_old(v, new[k]) if isinstance(v, dict) else new[k] for k, v in old.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_saved_again_it_is_the_same_file(name: str, tmp_path: Path) -> None:
    policy = DiffusionPolicy.from_pretrained(GOLDEN / name)
    policy.save_pretrained(tmp_path / "again")
    folders = GOLDEN / name, tmp_path / "again"
    before, after = (load_file(folder / "model.safetensors") for folder in folders)
    assert list(before) == list(after)
    assert all(torch.equal(before[k], after[k]) for k in before)
    old = json.loads((GOLDEN / name / "config.json").read_text())["policy"]
    new = json.loads((tmp_path / "again/config.json").read_text())["policy"]
    assert of_old(old, new) == old  # newer versions may add settings, not change these


def test_a_head_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """Before 0.1.0 a window head's correction was not a linear map of the residual."""
    shutil.copytree(GOLDEN / "mlp_window_0", tmp_path / "p")
    with pytest.raises(PcmError, match=r"lacks head.* of its head.*run pcm-distill on its base"):
        DiffusionPolicy.from_pretrained(tmp_path / "p")
    file = tmp_path / "p/config.json"
    config = json.loads(file.read_text())
    config["policy"]["head"]["options"]["scaled"] = True
    file.write_text(json.dumps(config))
    with pytest.raises(PcmError, match=r"'scaled'; if an earlier version distilled it, run pcm-d"):
        DiffusionPolicy.from_pretrained(tmp_path / "p")


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, "1", None])
def test_other_versions_are_refused(version: object, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "unet1d", tmp_path / "p")
    file = tmp_path / "p/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": version}))
    with pytest.raises(PcmError, match=f"has format version {version}, this package reads") as e:
        DiffusionPolicy.from_pretrained(tmp_path / "p")
    assert str(file) in str(e.value)


def test_a_config_of_any_size_takes_no_memory(tmp_path: Path) -> None:
    """A config from the hub may name a network of terabytes: its weights tell."""
    shutil.copytree(GOLDEN / "unet1d", tmp_path / "p")
    file = tmp_path / "p/config.json"
    config = json.loads(file.read_text())
    config["policy"]["network_options"]["down_dims"] = [8, 10_000_000]
    file.write_text(json.dumps(config))
    with pytest.raises(PcmError, match=r"config.json says torch.float32 \(.*10000000"):
        DiffusionPolicy.from_pretrained(tmp_path / "p")


def test_a_policy_with_a_camera(tmp_path: Path) -> None:
    config = json.loads((cameras.FOLDER / "config.json").read_text())
    built = cameras.policy(PolicyConfig.from_dict(config["policy"]))
    shapes = {k: [str(v.dtype), *v.shape] for k, v in built.state_dict().items()}
    assert shapes == json.loads((cameras.FOLDER / "layout.json").read_text())
    built.save_pretrained(tmp_path / "p")
    written = json.loads((tmp_path / "p/config.json").read_text())
    assert config["format_version"] == written["format_version"]
    assert of_old(config["policy"], written["policy"]) == config["policy"]
    expected = load_file(cameras.FOLDER / "expected.safetensors")["chunk"]
    assert expected.std() > 0.1
    found = cameras.chunk(DiffusionPolicy.from_pretrained(tmp_path / "p"))
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
