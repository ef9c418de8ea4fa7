"""Policies on the hub: huggingface_hub's own client against a local folder that stands for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.errors import PcmError
from pcm_policy.policy.folder import save_policy
from pcm_policy.policy.hub import hub_id
from pcm_policy.policy.places import resolve
from tests.hub_server import serve


def make() -> DiffusionPolicy:
    torch.manual_seed(0)
    options = {"width": 16, "depth": 1}
    return DiffusionPolicy(PolicyConfig(3, 2, network_options=options, task="reach"))


def client(code: str, endpoint: str, cache: Path) -> str:
    """Run code in a process whose hub is ``endpoint``; huggingface_hub reads that at import."""
    pytest.importorskip("huggingface_hub", reason="pip install 'pcm_policy[hub]'")
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "http"))}
    env = keep | {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
    env |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_there_and_back(tmp_path: Path) -> None:
    policy = make()
    root = tmp_path / "hub"
    save_policy(policy, root / "someone/reach", card="# Reach\n")
    (root / "someone/reach/evil.py").write_text("raise SystemExit")
    code = """
from pcm_policy import DiffusionPolicy
policy = DiffusionPolicy.from_pretrained("someone/reach")
assert policy.config.task == "reach"
url = policy.push_to_hub("someone/copy", token="t", card="# Copy\\n")
assert "/someone/copy/commit/" in url
again = DiffusionPolicy.from_pretrained("hf://someone/copy@main")
print(float(next(again.network.parameters()).sum()))
from pcm_policy.errors import PcmError
try:
    DiffusionPolicy.from_pretrained("someone/nothing")
except PcmError as error:
    assert "no policy folder someone/nothing, and the hub gave none" in str(error), error
    assert "\\n" not in str(error)
else:
    raise SystemExit(1)
"""
    with serve(root) as (endpoint, log):
        found = client(code, endpoint, tmp_path / "cache")
    assert float(found) == next(policy.network.parameters()).sum().item()
    copied = sorted(p.name for p in (root / "someone/copy").iterdir())
    assert copied == ["README.md", "config.json", "model.safetensors"]
    card = (root / "someone/copy/README.md").read_text()
    assert card.startswith("---\nlibrary_name: pcm_policy\n")
    assert card.endswith("---\n# Copy\n")
    assert not any("evil" in line for line in log)
    assert not list((tmp_path / "cache").rglob("evil.py"))


def test_import_from_the_hub(tmp_path: Path) -> None:
    from tests.adopt.fixtures import write_lerobot

    write_lerobot(tmp_path / "hub/lerobot/diffusion_reach")
    code = "from pcm_policy.adopt import read; print(read('lerobot/diffusion_reach').kind)"
    with serve(tmp_path / "hub") as (endpoint, _):
        assert client(code, endpoint, tmp_path / "cache") == "lerobot"


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_id("owner/name") == ("owner/name", None)
    assert hub_id("owner/name@v1.0") == ("owner/name", "v1.0")
    assert hub_id("hf://owner/name") == ("owner/name", None)
    assert hub_id(Path("hf://owner/name")) == ("owner/name", None)
    for text in ("name", "a/b/c", "/a/b", "./a", "../a", "a/..", "a/b.ckpt/c", "a b/c"):
        assert hub_id(text) is None, text
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    assert hub_id("outputs/polcy") is None
    with pytest.raises(PcmError, match=r"no policy folder outputs/polcy: .*OWNER/NAME on the hub"):
        resolve("outputs/polcy")
    assert hub_id("hf://outputs/polcy") == ("outputs/polcy", None)
