"""A network and a task of one's own, from a folder and a module outside the package."""

import sys
from pathlib import Path

import pytest

from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command
from pcm_policy.networks import NETWORKS

MODULE = """
from pcm_policy.networks import NETWORKS
from pcm_policy.networks.mlp import ResidualMLP

class Small(ResidualMLP):
    def __init__(self, action_dim, horizon, cond_dim, *, width: int = 16):
        super().__init__(action_dim, horizon, cond_dim, width=width, depth=1)

NETWORKS["small"] = Small
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
    try:
        run_command("train", found.append, words)
        assert found[0].network.options == {"width": 16}
        assert found[0].task.control_hz == 20.0
        with pytest.raises(SystemExit):
            run_command("train", pytest.fail, [*words, "network.options.width=wide"])
        assert "network.options.width=wide: use a whole number" in capsys.readouterr().err
    finally:
        NETWORKS.pop("small", None)
    with pytest.raises(ValueError, match=r"plugins=\[no_such_module\] cannot be imported"):
        compose("train", ["plugins=[no_such_module]"])
