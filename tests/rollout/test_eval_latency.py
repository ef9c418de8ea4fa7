"""``pcm-eval latency=...`` as a user runs it."""

import json
from pathlib import Path

import pytest

from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command

WORDS = [
    "policy=released/pusht_mlp",
    "episodes=2",
    "num_envs=2",
    "solve_batch=2",
    "max_steps=30",
    "device=cpu",
    "threads=1",
]


def test_eval_under_latency(tmp_path: Path) -> None:
    words = [*WORDS, f"output_dir={tmp_path}", "latency=steps", "latency.steps=3"]
    report = cli_eval.eval_main(compose("eval", [*words, "control=realtime"]))
    assert json.loads((tmp_path / "eval.json").read_text()) == json.loads(json.dumps(report))
    assert {"score", "success", "counts", "miss_rate", "seams", "rounds"} <= set(report)
    assert report["counts"]["hold"] == 6
    assert report["latency"] == {"kind": "steps", "steps": 3}
    assert set(report["latencies_ms"]) == {300.0}
    words = [*WORDS, f"output_dir={tmp_path}/again", "latency=trace", "control=realtime"]
    again = cli_eval.eval_main(compose("eval", [*words, f"latency.path={tmp_path}/eval.json"]))
    assert again["episodes"] == report["episodes"]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word, hint in (
        ("latency=slow", "latency"),
        ("latency.stepz=3", "latency.stepz"),
        ("control.prefix=true", "control.mode=async"),
        ("control.on_late=panic", "control.on_late"),
        ("control.replan_steps=99", "15 usable"),
    ):
        with pytest.raises(SystemExit):
            run_command("eval", cli_eval.eval_main, [*WORDS, f"output_dir={tmp_path}", word])
        lines = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
        assert len(lines) == 1
        assert hint in lines[0], lines[0]
