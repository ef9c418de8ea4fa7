"""A network and a task of one's own, from a folder and a module outside the package."""

import json
import sys
from pathlib import Path

import pytest

from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command
from pcm_policy.heads import HEADS

MODULE = """
from pcm_policy.networks import NETWORKS
from pcm_policy.networks.mlp import ResidualMLP

@NETWORKS.add("small")
class Small(ResidualMLP):
    def __init__(self, action_dim, horizon, cond_dim, *, width: int = 16):
        super().__init__(action_dim, horizon, cond_dim, width=width, depth=1)
"""
TASK = "name: mine\nobs_fields: [a]\nobs_dim: 3\naction_dim: 2\ncontrol_hz: 20\n"


def test_a_module_and_a_folder_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.path", ["", *sys.path])
    (tmp_path / "my_small_network.py").write_text(MODULE)
    for group, text in (("network", "name: small\n"), ("task", TASK)):
        (tmp_path / group).mkdir()
        (tmp_path / group / "mine.yaml").write_text(text)
    words = ["plugins=[my_small_network]", "network=mine", "task=mine"]
    words += ["dataset.path=x", "output_dir=x", "--config-dir", str(tmp_path)]
    found = []
    run_command("train", found.append, words)
    assert found[0].network.options == {"width": 16}
    assert found[0].task.control_hz == 20.0
    with pytest.raises(SystemExit):
        run_command("train", pytest.fail, [*words, "network.options.width=wide"])
    assert "network.options.width=wide: use a whole number" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"plugins=\[no_such_module\] cannot be imported"):
        compose("train", ["plugins=[no_such_module]"])


HEAD = """
import torch
from torch import nn
from pcm_policy.heads import HEADS, Head
from pcm_policy.settings import Positive

@HEADS.add("gained")
class Gained(Head):
    def __init__(
        self, network, steps, action_dim, horizon, cond_dim, *, scale: Positive = 1.0
    ):
        super().__init__()
        self.scale, self.gain = scale, nn.Parameter(torch.zeros(steps, 1, horizon, action_dim))

    def forward(self, s, x, share, base=None):
        with torch.no_grad():
            base = s.denoise(x.X[:-1], slice(0, s.steps)) if base is None else base
        return base + share * self.scale * self.gain * (s.sweep(base) - x.X)[:-1]
"""
DISTILL = ["policy=released/pusht_mlp", "task=pusht", "dataset.path=released/pusht_demos"]
DISTILL += ["dataset.episodes=2", "train.steps=2", "train.batch=4", "train.warmup=1"]
DISTILL += ["distill.pool=8", "device=cpu", "threads=1"]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    "chosen", [["plugins=[my_gained_head]", "head=mine"], ["head.name=my_gained_head:Gained"]]
)
def test_a_head_of_ones_own_is_distilled_and_used(
    chosen: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_gained_head.py").write_text(HEAD)
    (tmp_path / "head").mkdir()
    (tmp_path / "head/mine.yaml").write_text("name: gained\noptions: {scale: 0.5}\n")
    words = ["--config-dir", str(tmp_path), *chosen, *DISTILL]
    with pytest.raises(SystemExit):
        run_command("distill", pytest.fail, [*words, "head.options.scale=-1", "output_dir=x"])
    assert "head.options.scale=-1: use a number above 0" in capsys.readouterr().err
    run_command("distill", argv=[*words, f"output_dir={tmp_path}/out"])
    saved = json.loads((tmp_path / "out/policy/config.json").read_text())["policy"]["head"]
    assert saved["options"] == {"scale": 0.5 if "head=mine" in chosen else 1.0}
    plugins = ["plugins=[my_gained_head]"]  # a policy's file alone imports nothing
    words = [f"policy={tmp_path}/out/policy", "solver=pcm", "solver.rounds=2", "episodes=1"]
    words += ["task=pusht", "max_steps=4", "latency_calls=0", f"output_dir={tmp_path}/eval"]
    run_command("eval", argv=[*plugins, *words])
    assert "pcm" in (tmp_path / "eval/eval.json").read_text()
    sys.modules.pop("my_gained_head")
    HEADS._parts.pop("gained", None)
    with pytest.raises(SystemExit):
        run_command("eval", argv=[*words, "overwrite=true"])
    assert "gained" in capsys.readouterr().err.lower()


def test_plugins_are_imported_however_they_are_typed() -> None:
    for word in ("plugins=[no_such_module]", "++plugins=[no_such_module]"):
        with pytest.raises(ValueError, match="cannot be imported"):
            compose("train", [word])
