"""README and docs: every command is one that the package takes, and the quick ones run."""

import importlib.util
import json
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.compose import compose
from pcm_policy.cli.main import run_command
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.settings import plain
from pcm_policy.solvers.result import Ended
from tests.cli.documented import (
    DOCUMENTS,
    FENCED,
    ROOT,
    START,
    Command,
    block_lines,
    commands,
    files_shown,
    solver_settings,
)

SHOWN = commands()
OURS = [c for c in SHOWN if c.program.startswith("pcm-")]
MODULES = [c for c in SHOWN if c.words[:2] == ("python", "-m")]
FOLDERS = ("benchmarks", "configs", "datasets", "docs", "envs", "examples", "pcm_policy", "tests")
SLOW_AND_QUICK = [pytest.param("released/pusht", marks=pytest.mark.slow), "released/pusht_mlp"]
TRAINING = ["train.steps=2", "train.batch=8", "train.warmup=1"]
TUNED = ("solver/tuned.yaml", "runtime/tuned.yaml")  # what pcm-bench tune writes
EPISODE = ["episodes=1", "max_steps=8", "num_envs=1", "solve_batch=1"]
QUICK = {
    "train": TRAINING,
    "distill": [*TRAINING, "distill.pool=16"],
    "eval": EPISODE,
    "bench": ["calls=1", "observations=2", "methods=[pcm]"],
    "bench tune": ["calls=1", "observations=2", "search=[]", "deadline_ms=10000"],
    "bench loop": ["duration_s=0.5"],
    "data generate": ["episodes=1", "workers=1"],
    "export": ["calls=1", "formats=[export]"],
}
"""What makes a command of the README small; given after its own words, it counts."""


pytestmark = pytest.mark.usefixtures("brief")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Run in an empty folder, with the token that docs/control.md has in the environment."""
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCM_TOKEN", "secret")
    yield
    torch.set_num_threads(threads)


def named(command: Command) -> tuple[str, list[str]]:
    """Return a command's name in the table, and its other words."""
    name, words = command.program.removeprefix("pcm-"), list(command.words[1:])
    if words and f"{name} {words[0]}" in COMMANDS:
        name = f"{name} {words.pop(0)}"
    return name, words


def composed(command: Command, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the checked settings of a command, which is not run.

    What a command with ``...``, or one within a sentence, must be given besides, it is given.
    """
    name, words = named(command)
    while True:
        found: list[Any] = []
        try:
            run_command(name, found.append, words)
        except SystemExit:
            said = capsys.readouterr().err
            missing = re.search(r"give ([\w.]+)=", said)
            if command.whole or missing is None or f"{missing[1]}=DIR" in words:
                pytest.fail(f"{command}: {said}")
            words.append(f"{missing[1]}=" + ("pusht" if missing[1] == "task" else "DIR"))
        else:
            return found[0]


def test_what_is_checked() -> None:
    """The documents are read: this many commands of each kind are found in them."""
    assert len(OURS) > 60
    assert len(MODULES) > 15
    assert {named(c)[0] for c in OURS} >= set(COMMANDS)
    assert {c.document for c in OURS} >= {"README.md", "adopt.md", "control.md", "tasks.md"}


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_composes(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--config-dir" in command.words or any(w.startswith("plugins=") for w in command.words):
        (document,) = (d for d in DOCUMENTS if d.name == command.document)
        found = files_shown(document)
        if {"solver=tuned", "runtime=tuned"} & set(command.words):
            folder = command.words[command.words.index("--config-dir") + 1]
            found = dict.fromkeys((f"{folder}/{file}" for file in TUNED), "{}")
        assert found
        for name, text in found.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    assert composed(command, capsys) is not None


@pytest.mark.parametrize("words", solver_settings(), ids=" ".join)
def test_a_solver_has_these_settings(words: tuple[str, ...]) -> None:
    """As the released MLP reads them, but for those of other kinds of policies."""
    found: list[Any] = []
    run_command("eval", found.append, ["policy=released/pusht_mlp", "output_dir=DIR", *words])
    if not {"solver=flow", "solver=consistency"} & set(words):
        policy = DiffusionPolicy.from_pretrained("released/pusht_mlp")
        assert policy.solver(plain(found[0].solver)).label


@pytest.mark.parametrize("command", MODULES, ids=str)
def test_a_module_has_these_flags(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, *words = command.words[2:]
    monkeypatch.syspath_prepend(str(ROOT))
    assert importlib.util.find_spec(module) is not None
    first = [word for word in words[:1] if word == "run"]
    monkeypatch.setattr(sys, "argv", [module, *first, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert not ended.value.code
    text = capsys.readouterr().out
    for flag in (word for word in words if word.startswith("--")):
        assert re.search(rf"{flag}\b", text), f"{module} has no {flag}"


def test_make_targets_and_extras_and_scripts() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plugin = tomllib.loads((ROOT / "lerobot_policy_pcm/pyproject.toml").read_text())["project"]
    theirs = {"lerobot-eval", "lerobot-train", "lerobot-rollout"}
    known = {*project["scripts"], *plugin["scripts"], *theirs}
    extras_of = {".": set(project["optional-dependencies"])}
    extras_of["lerobot"] = {"smolvla", "pi", "multi_task_dit"}  # of 0.6.1; with hyphens in its list
    for command in SHOWN:
        if command.program == "make":
            assert set(command.words[1:]) <= set(targets), command
        elif command.program == "pip":
            for package, extras in re.findall(r"([\w.]+)\[([\w,]+)\]", " ".join(command.words)):
                assert set(extras.split(",")) <= extras_of[package], command
        elif command.program == "torchrun":
            assert importlib.util.find_spec(command.words[command.words.index("-m") + 1])
        elif command.program != "python":
            assert command.program in known, command


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text()
    missing = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)", text)
        if "://" not in target and not (document.parent / target).exists()
    ]
    for span in re.findall(r"`([\w./-]+)`", FENCED.sub("", text)):
        file = span.split("/")[0] in FOLDERS
        if (file and not (ROOT / span).exists()) or not _is_there(span):
            missing.append(span)
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_the_heading_that_a_link_names_is_there(document: Path) -> None:
    missing = [
        f"{target}#{anchor}"
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", document.read_text())
        if "://" not in target and anchor not in anchors(document.parent / target, document)
    ]
    assert missing == []


def anchors(target: Path, document: Path) -> set[str]:
    """Return what GitHub calls the headings of a page; a link without a page means its own."""
    text = FENCED.sub("", (document if target.is_dir() else target).read_text())
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def _is_there(dotted: str) -> bool:
    """Whether a name of the package is a module, or something in one."""
    if not dotted.startswith("pcm_policy."):
        return True
    module, _, name = dotted.rpartition(".")
    try:
        if importlib.util.find_spec(dotted) is not None:
            return True
    except ModuleNotFoundError:
        pass
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return False


def test_python_examples() -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    scope: dict[str, object] = {}
    exec(code.group(1), scope)
    action = scope["action"]
    assert isinstance(action, np.ndarray)
    assert action.shape == (1, 10, 2)
    assert np.isfinite(action).all()
    assert action.min() > -50
    assert action.max() < 562


def test_a_prediction_is_read_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/own_robot.md").read_text()
    (code,) = re.findall(r"```python\n(import numpy.*?)```", text, re.S)
    exec(code, {})
    shapes, solve, advice, error = capsys.readouterr().out.splitlines()
    assert shapes == "(1, 8, 2) (1, 16, 2)"
    assert "tensor([True])" in solve
    assert advice == Ended.CERTIFIED.value
    assert float(re.findall(r"\d[\d.e-]*", error)[0]) < 1e-3


def test_layout_links() -> None:
    for name in ("envs", "datasets", "configs"):
        link = ROOT / "pcm_policy" / name
        assert link.is_symlink()
        assert link.readlink() == Path("..") / name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert installed == ["pcm_policy*"]  # nothing called datasets goes over Hugging Face's


def run(command: Command, *more: str, **instead: str) -> None:
    """Run a command of the README in its small form, other words in place of some."""
    name, words = named(command)
    words = [instead.get(word, word) for word in words]
    words = ["=".join(instead.get(part, part) for part in w.split("=", 1)) for w in words]
    rolls = name == "data generate" and any(w.startswith("policy=") for w in words)
    # A policy's episodes run as many at once as a solve has rows; an expert's end with success.
    short = ["max_steps=16", "num_envs=1", "solve_batch=1"] if rolls else []
    run_command(name, None, [*words, *QUICK.get(name, []), *short, *more])


def readme(*beginnings: str) -> list[Command]:
    """Return the README's whole commands that begin so, in this order."""
    found = []
    for beginning in beginnings:
        fitting = [c for c in OURS if c.document == "README.md" and _line(c).startswith(beginning)]
        assert fitting, beginning
        found += fitting[:1]
    return found


def _line(command: Command) -> str:
    return " ".join(command.words)


@pytest.mark.parametrize("policy", SLOW_AND_QUICK)
def test_commands_of_a_released_policy(policy: str, tmp_path: Path) -> None:
    """README's lines as they stand; pcm-bench of both policies ends with its picture."""
    score, bench, loop, late = readme(
        "pcm-eval policy=released/pusht",
        "pcm-bench policy=released/pusht",
        "pcm-bench loop",
        "pcm-eval control=prefix",
    )
    own = {"released/pusht": policy}
    run(score, "latency_calls=1", **own)
    assert (tmp_path / "DIR3/eval.json").exists()
    run(bench, **own)
    assert (tmp_path / "DIR4/bench.png").read_bytes().startswith(b"\x89PNG")
    run(loop, f"policy={policy}")
    assert (tmp_path / "DIR7/loop.json").exists()
    run(late, f"policy={policy}", "output_dir=late")
    assert (tmp_path / "late/eval.json").exists()


@pytest.mark.parametrize("policy", SLOW_AND_QUICK)
def test_the_tuner_and_the_line_that_it_prints(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tune,) = readme("pcm-bench tune")
    run(tune, f"policy={policy}", "modes=[eager]")  # an engine records for seconds, every solver
    program, *words = capsys.readouterr().out.splitlines()[-1].split()
    assert (program, f"policy={policy}" in words, "task=pusht" in words) == ("pcm-eval", True, True)
    run_command("eval", None, [*words, *QUICK["eval"], "latency_calls=1"])
    assert (tmp_path / "DIR5/eval/eval.json").exists()
    chosen = json.loads((tmp_path / "DIR5/tune.json").read_text())
    for name, more in (("eval", ["output_dir=x"]), ("bench loop", ["output_dir=x"]), ("serve", [])):
        found = compose(name, ["solver=tuned", "runtime=tuned", *more], tmp_path / "DIR5")
        assert plain(found.solver) == chosen["solver"]
        assert plain(found.runtime) == chosen["runtime"]
    found = compose("export", ["solver=tuned", "output_dir=x"], tmp_path / "DIR5")
    assert plain(found.solver) == chosen["solver"]


@pytest.mark.slow
def test_the_path_from_demonstrations_to_a_package(tmp_path: Path) -> None:
    """Info, validate, train, generate, distil, evaluate, export and convert, as README has them."""
    demonstrations = {"PATH": "released/pusht_demos"}
    lines = ("pcm-data info", "pcm-data validate", "pcm-train", "pcm-data generate policy=")
    for command in readme(*lines, "pcm-distill"):
        run(command, **demonstrations)
    assert (tmp_path / "DIR2/policy/config.json").exists()
    (package, copy) = readme("pcm-export", "pcm-data convert")
    run(package, DIR="DIR2/policy", DIR2="DIR3")
    assert (tmp_path / "DIR3/policy.pt2").exists()
    run(copy, A="R.zarr", B="R.hdf5")
    assert (tmp_path / "R.hdf5").exists()


@pytest.mark.slow
def test_the_arms_of_the_readme_on_lift(tmp_path: Path) -> None:
    pytest.importorskip(
        "robosuite", reason="robosuite is not installed: pip install '.[robomimic14]'"
    )
    arms = [c for c in OURS if c.document == "README.md" and "lift" in _line(c)]
    made = ["data generate", "train", "data generate", "distill"]  # by the expert, by the policy
    assert [named(c)[0] for c in arms] == [*made, "eval", "eval"]
    for command in arms:
        run(
            command,
            *(["latency_calls=1", "max_excess=1e6"] if command.program == "pcm-eval" else []),
        )
    for folder in ("lift_base", "lift_two"):
        assert (tmp_path / folder / "eval.json").exists()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_a_shell_leaves_the_words_of_a_command_alone(document: Path) -> None:
    """Brackets are quoted, for zsh; nothing is redirected, and nothing is a pipe."""
    wrong = []
    for line in block_lines(document.read_text()):
        typed = line.strip().removeprefix("$ ").split("  #")[0]
        if START.match(typed) and re.search(r"[][<>|]", re.sub(r"\"[^\"]*\"|'[^']*'", "", typed)):
            wrong.append(typed)
    assert wrong == []


def test_blocks_are_joined_where_a_line_goes_on() -> None:
    text = (
        "Some prose.\n\n    pcm-eval a=1 \\\n      b=2   # why\n    done\n\n```\nmake demo\n```\n"
    )
    assert block_lines(text) == ["make demo", "    pcm-eval a=1 b=2   # why", "    done"]
