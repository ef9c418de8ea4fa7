"""The commands: every mistake is one line that names file and fix, and loses nothing."""

import importlib
import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli import main
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command
from pcm_policy.datasets.formats.replay import open_replay
from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.envs.pusht import PushTKeypoints

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
TINY = ["network.options.width=32", "network.options.depth=1", "train.steps=4", "device=cpu"]


@pytest.fixture(scope="module")
def policy(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tiny")
    return cli_train.train_main(
        compose("train", ["task=pusht", *TINY, f"dataset.path={demos}", f"output_dir={output}"])
    )


def fails(capsys: pytest.CaptureFixture[str], name: str, *words: str, code: int = 2) -> str:
    """Run a command that must fail with one line; return the line."""
    with pytest.raises(SystemExit) as caught:
        run_command(name, argv=list(words))
    assert caught.value.code == code
    lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert len(lines) == 1
    return lines[0]


def damaged(demos: Path, tmp_path: Path) -> tuple[Path, zarr.Group]:
    path = tmp_path / "damaged.zarr"
    shutil.copytree(demos, path)
    return path, zarr.open_group(path, mode="r+")


def test_missing_array(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = damaged(demos, tmp_path)
    shutil.rmtree(path / "data/keypoint")
    line = fails(
        capsys, "train", "task=pusht", *TINY, f"dataset.path={path}", f"output_dir={tmp_path}/out"
    )
    assert "damaged.zarr" in line
    assert "keypoint" in line
    assert not (tmp_path / "out/policy").exists()


@pytest.mark.parametrize("ends", [[40, 80, 120, 160, 200, 999], [40, 80, 60, 160, 200, 240]])
def test_episode_ends(
    demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], ends: list[int]
) -> None:
    path, group = damaged(demos, tmp_path)
    group["meta/episode_ends"][:] = np.array(ends)
    line = fails(
        capsys, "train", "task=pusht", *TINY, f"dataset.path={path}", f"output_dir={tmp_path}/out"
    )
    assert "damaged.zarr" in line
    assert "episode_ends" in line


def test_nan_in_actions(demos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, group = damaged(demos, tmp_path)
    group["data/action"][77, 1] = np.nan
    line = fails(
        capsys, "train", "task=pusht", *TINY, f"dataset.path={path}", f"output_dir={tmp_path}/out"
    )
    assert "action" in line
    assert "77" in line


def test_wrong_width(
    demos: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    buffer = open_replay(demos)
    episodes = [dict(buffer.episode(i)) for i in range(buffer.n_episodes)]
    narrow = [e | {"keypoint": e["keypoint"][:, :8]} for e in episodes]
    write_replay(tmp_path / "narrow.zarr", narrow)
    words = [f"policy={policy}", f"dataset.path={tmp_path}/narrow.zarr", "device=cpu"]
    line = fails(capsys, "distill", *words, f"output_dir={tmp_path}/out")
    assert "narrow.zarr" in line
    assert "18 wide, the policy takes 20" in line


def test_more_steps_than_trained(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"policy={policy}", f"output_dir={tmp_path}/out", "episodes=1", "solver=ddim"]
    line = fails(capsys, "eval", *words, "solver.steps=101")
    assert "solver.steps=101: this policy was trained with 100" in line
    assert not (tmp_path / "out/eval.json").exists()


def test_settings_that_do_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean train.steps?" in fails(capsys, "train", "train.stesp=5")
    assert "dataset.path" in fails(capsys, "train", "output_dir=x")
    assert "solver" in fails(capsys, "eval", "solver=magic")
    line = fails(capsys, "train", "dataset.path=x", "output_dir=/tmp", "train.steps=many")
    assert "train" in line
    assert "steps" in line or "many" in line


def test_truncated_weights_and_missing_normaliser(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "policy"
    shutil.copytree(policy, broken)
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    line = fails(capsys, "eval", f"policy={broken}", f"output_dir={tmp_path}/out")
    assert "model.safetensors is damaged" in line
    line = fails(capsys, "bench", f"policy={broken}", f"output_dir={tmp_path}/out")
    assert "model.safetensors is damaged" in line


def test_no_head(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"policy={policy}", f"output_dir={tmp_path}/out", "solver=pcm"]
    assert "no PCM head: run pcm-distill" in fails(capsys, "eval", *words)


def test_unwritable_output(
    demos: Path, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    out = f"output_dir={tmp_path}/file/out"
    for name, words in (
        ("train", ["task=pusht", *TINY, f"dataset.path={demos}"]),
        ("eval", [f"policy={policy}"]),
        ("bench", [f"policy={policy}"]),
    ):
        line = fails(capsys, name, *words, out)
        assert f"output_dir={tmp_path}/file/out cannot be written" in line


def test_doctor_says_no_with_exit_code_1(demos: Path, tmp_path: Path) -> None:
    path, group = damaged(demos, tmp_path)
    group["data/action"][3] = np.inf
    with pytest.raises(SystemExit) as caught:
        run_command("data validate", argv=[f"path={path}"])
    assert caught.value.code == 1


def test_eval_writes_what_it_promises(policy: Path, tmp_path: Path) -> None:
    words = [f"policy={policy}", f"output_dir={tmp_path}/out", "episodes=3", "seed=7"]
    words += ["solver=picard", "solver.rounds=2", "max_steps=24", "video_episodes=[1]"]
    words += ["num_envs=2", "solve_batch=2", "latency_calls=3", "device=cpu"]
    cli_eval.eval_main(compose("eval", words))
    report = json.loads((tmp_path / "out/eval.json").read_text())
    assert set(report["score"]) == {"mean", "ci95"}
    assert set(report["success"]) == {"rate", "ci95"}
    assert report["rounds"] == 2
    assert report["nfe"] == 16 + 15
    assert {"p50", "p95", "p99", "max"} <= set(report["latency_ms"])
    assert [e["seed"] for e in report["episodes"]] == [7, 8, 9]
    assert (tmp_path / "out/videos/episode_8.mp4").stat().st_size > 1000


def test_eval_keeps_the_episodes_before_an_environment_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = PushTKeypoints.step

    def breaks(env: PushTKeypoints, action: Any) -> Any:
        if env.steps > 11:
            raise RuntimeError("no more")
        env.steps += 1
        return step(env, action)

    monkeypatch.setattr(PushTKeypoints, "steps", 0, raising=False)
    monkeypatch.setattr(PushTKeypoints, "step", breaks)
    words = ["policy=released/pusht_mlp", "episodes=3", "max_steps=6", "num_envs=1"]
    words += ["solve_batch=1", "latency_calls=1", "solver=ddim", "solver.steps=1"]
    line = fails(capsys, "eval", *words, f"output_dir={tmp_path}")
    assert "raised RuntimeError: no more; 2 of 3 episodes had finished and are in" in line
    report = json.loads((tmp_path / "eval.json").read_text())
    assert [episode["seed"] for episode in report["episodes"]] == [100000, 100001]
    assert "no more" in report["incomplete"]


def test_scripts_as_a_user_runs_them(tmp_path: Path) -> None:
    typo = subprocess.run(
        [str(BIN / "pcm-eval"), "episods=3"], capture_output=True, text=True, check=False
    )
    assert typo.returncode == 2
    assert typo.stderr.splitlines() == [
        "pcm-eval: error: unknown setting episods: did you mean episodes?"
    ]
    versions = subprocess.run([str(BIN / "pcm-info")], capture_output=True, text=True, check=False)
    assert versions.returncode == 0
    assert "torch" in versions.stdout


def test_every_script_is_installed_and_calls_a_function() -> None:
    """Two of them run as processes above; what the others call runs here and in other tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        assert (BIN / name).exists(), name
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function)), name


def script(name: str, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Call what a script calls, with words from its command line; returns its exit code."""
    monkeypatch.setattr(sys, "argv", [name, *words])
    try:
        getattr(main, name.removeprefix("pcm-"))()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_scripts_read_their_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script("pcm-train", monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert "pcm-train task=pusht dataset.path=" in shown
    assert "network=mlp   one of dit, mlp, transformer, unet1d" in shown
    assert script("pcm-data", monkeypatch, "validate", str(tmp_path / "no thing=.zarr")) != 0
    missing = capsys.readouterr()
    assert "no thing=.zarr" in missing.out + missing.err
    assert "Traceback" not in missing.err
