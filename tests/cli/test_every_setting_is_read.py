"""A setting that nothing reads would be ignored: every name is used somewhere in the code."""

import ast
from functools import cache
from pathlib import Path

import pytest

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.settings import Setting, options_of, walk

PACKAGE = Path(__file__).parents[2] / "pcm_policy"
CONFIGS = Path(__file__).parents[2] / "configs"
BY_WORD = {"plugins"}
"""Settings that are read before the command line is composed."""
GIVEN_ON = {"distill", "policy.vision", "sampler", "policy.schedule", "policy.sampler"}
"""Sections that are handed on as a whole, to a call that has an argument of each name."""


@cache
def used() -> frozenset[str]:
    """Names that code reads: attributes, texts and arguments; not fields that it declares."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return frozenset(found)


@cache
def arguments() -> frozenset[str]:
    """Names of the arguments of all functions."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.arg):
                found.add(node.arg)
    return frozenset(found)


def read(setting: Setting) -> bool:
    section, _, name = setting.name.rpartition(".")
    if any(f"${{{setting.name}}}" in file.read_text() for file in CONFIGS.glob("*/*.yaml")):
        return True  # other settings take it over
    return name in BY_WORD | used() or (section in GIVEN_ON and name in arguments())


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_setting_is_read(command: str) -> None:
    every = [one for one in walk(COMMANDS[command].kind) if not options_of(one.kind)]
    assert [one.name for one in every if not read(one)] == []


def test_a_setting_that_nothing_reads_is_found() -> None:
    assert not read(Setting("dataset.cache_folder_of_frames", str, None, ""))
    assert not read(Setting("distill.cache_folder_of_frames", int, 1, ""))


def test_a_variant_of_a_task_that_has_none_is_refused() -> None:
    words = ["dataset.path=unused", "output_dir=unused", "task.variant=pick-place"]
    assert compose("train", ["task=metaworld", *words]).task.name == "metaworld/pick-place"
    with pytest.raises(PcmError, match=r"task\.variant=pick-place: this task has no variants"):
        compose("train", ["task=pusht", *words])
