"""The whole way from demonstrations to success, as typed; once for real, on a small scale."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.routes import page, plan, route
from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command
from pcm_policy.errors import PcmError

SMALL = plan.Route(
    "metaworld/pick-place", 2, 8, ("train.batch=8",), ("max_steps=300",), 2, 2, 2, 2, ""
)


@pytest.mark.parametrize("name", list(plan.ROUTES))
def test_every_command_is_one_that_exists(name: str, tmp_path: Path) -> None:
    spread = [*plan.commands(name, tmp_path, ray="127.0.0.1:6379").values()]
    assert sum("launcher=ray" in words for words in spread) >= 5
    for words in [*plan.commands(name, tmp_path).values(), *spread]:
        if words[0] in plan.MODULES:
            assert importlib.util.find_spec(words[0]) is not None
            continue
        name = " ".join(words[:2]) if words[0] == "data" else words[0]
        compose(name, words[len(name.split()) :])


QUICK = {"distill": ["distill.pool=8", "distill.guess_batch=8"], "eval": ["latency_calls=1"]}
"""What makes a command smaller than its line says."""


def here(words: Sequence[str]) -> None:
    """Run a command in this process, which spares it the import of torch; one by ``execute``."""
    if words[0] == "train":
        route.execute(words)
        return
    name = " ".join(words[:2]) if words[0] == "data" else words[0]
    assert name in COMMANDS
    run_command(name, None, [*words[len(name.split()) :], *QUICK.get(name, [])])


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
def test_from_demonstrations_to_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("metaworld")
    monkeypatch.setattr(plan, "ROUTES", {"small": SMALL, "again": SMALL})
    route.run("small", tmp_path, here)
    route.main(["small", "--output", str(tmp_path)])  # which runs nothing again
    shown = capfd.readouterr().out
    report = json.loads((tmp_path / "small.json").read_text())
    steps = report["steps"]
    assert list(steps) == ["generate", "train", "rollouts", "distil", *plan.SOLVERS]
    for step in steps.values():
        assert f"$ {step['command']}" in shown
        assert step["seconds"] > 0
    for solver, rounds in zip(plan.SOLVERS, (16, 1, 2, 3), strict=True):
        assert steps[solver]["result"]["rounds"] == rounds
        assert len(steps[solver]["result"]["episodes"]) == 2

    def refuse(words: Sequence[str]) -> None:
        raise AssertionError(words)

    assert route.run("small", tmp_path, refuse) == report  # nothing is run twice
    with pytest.raises(AssertionError, match="train"):  # and the demonstrations are shared
        route.run("again", tmp_path, refuse)
    lines = {line[0]: line[1] for line in page.rows([report])}
    assert lines["PCM, 2 rounds"].startswith(
        f"{steps['PCM, 2 rounds']['result']['success']['rate']:.2f} ["
    )
    assert lines["train"].endswith(" min")
    assert lines["a solve: PCM, 2 rounds"].endswith(" ms")


def test_a_training_that_was_cut_off_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "ROUTES", {"small": SMALL})
    (tmp_path / "small_pcm/checkpoints").mkdir(parents=True)
    for name in ("pick-place.hdf5", "small_rollouts.zarr"):
        (tmp_path / name).mkdir()
    typed = []

    def note(words: Sequence[str]) -> None:
        typed.append(list(words))
        if words[0] == "eval":
            folder = Path(words[-1].partition("=")[2])
            folder.mkdir()
            (folder / "eval.json").write_text("{}")

    steps = route.run("small", tmp_path, note)["steps"]
    begun, gone_on = (next(w for w in typed if w[0] == name) for name in ("train", "distill"))
    assert "resume=true" not in begun
    assert gone_on[-1] == "resume=true"
    assert "seconds" in steps["train"]
    assert "seconds" not in steps["distil"]


def test_a_command_that_fails_ends_the_route(tmp_path: Path) -> None:
    with pytest.raises(PcmError, match=r"pcm-train .* ended with code 2"):
        route.execute(["train", f"dataset.path={tmp_path}/none.hdf5", f"output_dir={tmp_path}"])


def test_a_success_over_other_episodes_says_so() -> None:
    def step(count: int) -> dict[str, Any]:
        success = {"rate": 0.5, "ci95": [0.4, 0.6]}
        result = {"success": success, "episodes": [0] * count, "hardware": {"device": "cpu"}}
        return {"result": result | {"latency_ms": {"p50": 1.0}}}

    base, first, *_ = plan.SOLVERS
    report = {"steps": {base: step(200), first: step(200), plan.BASELINE: step(100)}}
    found = {title: cell for title, cell in page.rows([report])}  # noqa: C416
    assert found[first] == "0.50 [0.40, 0.60]"
    assert found[plan.BASELINE] == "0.50 [0.40, 0.60] of 100"
    assert found["episodes, machine"] == "200, cpu"
