"""Words of the command line: texts and paths as typed, flags, yes and no, mistakes."""

import logging
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pcm_policy.cli import main as entries
from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.compose import compose, composed, overrides_of, writable
from pcm_policy.cli.main import main, run_command
from pcm_policy.cli.settings.evaluate import EvalSettings
from pcm_policy.cli.words import Vocabulary, split
from pcm_policy.settings import walk
from tests.cli.test_cli_settings import needed

ROOT = Path(__file__).parents[2]
PATHS = ["José", "実験", "run(1)", "lr=0.1", "a,b", "a[1]", "it's", "a b", "#1", "{x}", "50%", "~x"]
PATHS += ["no", "1e3", "007", "true", "C:\\data\\", 'say "x"', "a\\'b", "$HOME", "[a", "a]"]
PARSER = OverridesParser.create()
PLACES = {
    "train": (
        "output_dir",
        "init",
        "dataset.path",
        "dataset.filter_key",
        "task.env_kwargs.dataset",
    ),
    "distill": ("policy", "dataset.path"),
    "eval": ("policy", "output_dir", "latency.path", "task.env_kwargs.dataset"),
    "bench": ("policy", "lerobot"),
    "data validate": ("path",),
    "data generate": ("output", "policy"),
    "data convert": ("path", "target"),
    "serve": ("policy", "serve.token"),
    "import": ("source", "data", "original_python"),
    "export": ("policy",),
}


def refused(capsys: pytest.CaptureFixture[str], name: str, *words: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as caught:
        main(name, list(words))
    assert caught.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


def taken(name: str, place: str, text: str) -> object:
    """What hydra reads from a setting as typed."""
    (typed,) = overrides_of(name, [f"{place}={text}"])
    value = PARSER.parse_override(typed).value()
    return getattr(value, "text", value)


@pytest.mark.parametrize(("name", "places"), PLACES.items())
def test_a_path_is_taken_as_typed(name: str, places: Sequence[str]) -> None:
    for i, text in enumerate(PATHS):
        place = places[i % len(places)]
        found = taken(name, place, text)
        if place.startswith("task.env_kwargs") and text in ("007", "1e3", "true"):
            continue  # of what its environment is made with nobody knows the type
        assert str(found) == text, place
    values: Any = composed(name, overrides_of(name, [f"{place}=it's/run(1)" for place in places]))
    for place in places:
        found = values
        for part in place.split("."):
            found = found[part]
        assert found == "it's/run(1)"


@settings(max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_is_taken_as_typed(text: str) -> None:
    if text in ("null", "???") or "${" in text or (text[0] in "'\"" and text[0] == text[-1]):
        return  # these mean something
    assert taken("eval", "policy", text) == text


def test_a_list_of_texts_is_taken_as_typed() -> None:
    config = compose(
        "train",
        [
            *needed("train"),
            "task.obs_fields=[keypoint, obs[0:2]]",
            "dataset.more=[José/run(1),lr=0.1,'a,b']",
        ],
    )
    assert config.task.obs_fields == ("keypoint", "obs[0:2]")
    assert config.dataset.more == ["José/run(1)", "lr=0.1", "a,b"]
    assert split("a[1,2], 'b,c' ,d") == ["a[1,2]", "'b,c'", "d"]
    assert split("") == []


@pytest.mark.parametrize("word", ["solver=pcm", "latency=measured"])
def test_a_choice_of_an_open_section_is_a_choice(word: str) -> None:
    """A section that takes any name is a group too, and no name that is added."""
    assert Vocabulary.of(EvalSettings).overrides([word])[0][:2] != "++"
    assert compose("eval", [word, "output_dir=x"]).output_dir == "x"


def test_words_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=0.1").mkdir()
    found = compose("data convert", ["lr=0.1", "out/lr=0.1.zarr", "fps=20"])
    assert (found.path, found.target, found.fps) == ("lr=0.1", "out/lr=0.1.zarr", 20.0)
    found = compose("data convert", ["target=b", "it's"])
    assert (found.path, found.target) == ("it's", "b")


@pytest.mark.parametrize("word", ["no", "No", "off", "false", "FALSE", "n", "0"])
def test_no_is_no(word: str) -> None:
    assert compose("train", [*needed("train"), f"resume={word}"]).resume is False
    assert compose("data generate", ["x", "task=pusht", f"failures={word}"]).failures is False


@pytest.mark.parametrize("word", ["yes", "on", "true", "y", "1"])
def test_yes_is_yes(word: str) -> None:
    assert compose("train", [*needed("train"), f"resume={word}"]).resume is True


def test_yaml_reads_a_bare_no_as_false(tmp_path: Path) -> None:
    """A word that is one of several, such as warm_start: off, stays that word."""
    (tmp_path / "control").mkdir()
    (tmp_path / "control/mine.yaml").write_text("warm_start: off\n")
    found = compose("eval", ["output_dir=x", "control=mine"], tmp_path)
    assert found.control.warm_start == "off"


@pytest.mark.parametrize("name", ["train", "bench", "bench loop", "data", "info"])
def test_version_is_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(name.partition(" ")[0], [*name.split()[1:], "--version"])
    assert capsys.readouterr().out == "pcm_policy 0.1.0\n"


@pytest.mark.parametrize(
    "flags", [[], ["--cfg", "job"], ["--multirun"], ["-m"], ["--cfg", "job", "--resolve"]]
)
def test_a_typo_with_any_flag_is_our_line(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "eval", "output_dir=x", *flags, "episods=3")
    assert line == "pcm-eval: error: unknown setting episods: did you mean episodes?"
    line = refused(capsys, "eval", "output_dir=x", *flags, "solver=magic")
    assert "solver=magic: there is no such solver; use one of" in line
    assert "--unknown" in refused(capsys, "eval", *flags, "--unknown")


def test_a_sweep_is_checked_before_its_first_run(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["output_dir=x", "--multirun", "solver=ddim,pcm", "episodes=1,0"]
    with pytest.raises(SystemExit):
        run_command("eval", pytest.fail, words)
    assert "episodes=0: use a whole number from 1" in capsys.readouterr().err


def test_a_sweep_runs_once_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pcm-eval"])
    ran = []
    words = ["--multirun", "solver=ddim,pcm", "episodes=2,3", "output_dir=out/${episodes}/José"]
    run_command("eval", lambda c: ran.append((c.solver, c.episodes, c.output_dir)), words)
    methods = [(solver["method"], episodes) for solver, episodes, _ in ran]
    assert methods == [("sequential", 2), ("sequential", 3), ("pcm", 2), ("pcm", 3)]
    assert ran[0][2] == "out/2/José"
    assert not logging.getLogger("pcm_policy.control").disabled


def test_the_environment_is_not_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PCM_TOKEN", "a-secret")
    assert compose("serve", []).serve.token == "a-secret"
    main("serve", ["--cfg", "job", "--resolve"])
    shown = capsys.readouterr().out
    assert "port: 8765" in shown
    assert "a-secret" not in shown


@pytest.mark.parametrize("name", list(COMMANDS))
def test_help_says_every_setting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, *rest = name.split()
    main(first, [*rest, "--help"])
    shown = capsys.readouterr().out
    assert COMMANDS[name].examples[0] in shown
    for setting in walk(COMMANDS[name].kind):
        assert setting.text, f"{setting.name} is not described"
        assert f"  {setting.name}=" in shown or setting.name in ("solver", "latency")
    assert "``" not in shown
    assert ":class:" not in shown


@pytest.mark.parametrize(
    ("name", "resumes"), [("train", True), ("distill", True), ("eval", False), ("bench", False)]
)
def test_only_training_is_resumed(
    name: str, resumes: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_command(name, stopped, needed(name))
    assert caught.value.code == 130
    assert ("resume=true" in capsys.readouterr().err) == resumes


def test_an_unknown_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "data", "inof")
    assert line == "pcm-data: error: no command inof: did you mean info?"


def test_control_codes_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "eval", "output_dir=x", "epi\x1b[31msodes=3")
    assert "\x1b" not in line
    assert "\\x1b[31m" in line


def test_every_command_runs_as_a_module(capsys: pytest.CaptureFixture[str]) -> None:
    words = [sys.executable, "-m", "pcm_policy.cli", "info", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "pcm_policy 0.1.0\n", done.stderr
    names = {name.partition(" ")[0] for name in COMMANDS}
    for name in names:
        main(name, ["--version"])
    assert capsys.readouterr().out == "pcm_policy 0.1.0\n" * len(names)
    installed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for script, target in installed.items():
        entry = getattr(entries, target.rpartition(":")[2])
        assert target.startswith("pcm_policy.cli.main:")
        assert f"pcm-{entry.args[0]}" == script
    assert set(installed) == {f"pcm-{name}" for name in names}


def test_two_runs_test_one_folder_at_once(tmp_path: Path) -> None:
    """Each with a file of its own: none takes away the other's."""
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(writable, [str(tmp_path)] * 2000):
            assert found == tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "setting"),
    [("eval", "output_dir"), ("train", "output_dir"), ("data info", "path")],
)
def test_an_empty_word_is_no_folder(
    command: str, setting: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_command(command, lambda _: None, [f"{setting}="])
    assert f"{setting} is empty: give {setting}=..." in capsys.readouterr().err
