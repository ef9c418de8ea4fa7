"""``--help``: what a command does, how it is called, its groups and all its settings."""

import re
import textwrap
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pcm_policy.cli.commands import COMMANDS, Command
from pcm_policy.cli.compose import composed, options_of_group
from pcm_policy.cli.settings.common import OnDevice
from pcm_policy.settings import GIVE, Setting, describe, options_of, walk

FOOT = """\
Any setting is given as name=value; a list as [1,2]; null stands for nothing said.
  --help                this text
  --version             version of the package
  --cfg job             print the settings as they would be taken; --resolve fills in references
  --multirun name=a,b   run once with each value
  --config-dir DIR      more tasks, solvers, networks ... from your own folder"""
WIDTH = 100


def command_help(command: Command) -> str:
    """Return the help text of a command."""
    lines = [command.purpose, "", *(f"  {example}" for example in command.examples)]
    groups = command.kind.groups
    if groups:
        lines += ["", "Choices"]
    for group, option in groups.items():
        known = ", ".join(options_of_group(group))
        lines += textwrap.wrap(
            f"{group}={'null' if option is None else option}   one of {known}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent=" " * 26,
            break_on_hyphens=False,
        )
    lines += ["", "Settings"]
    values = composed(command.name, [])
    shared = {field.name for field in fields(OnDevice)}
    for setting in sorted(walk(command.kind), key=lambda one: (_place(one), one.name in shared)):
        if not options_of(setting.kind):
            lines += _lines(setting, values)
    return "\n".join([*lines, "", FOOT])


def group_help(name: str) -> str:
    """Return the help text of a command that has subcommands alone."""
    inner = [command for command in COMMANDS.values() if command.name.startswith(f"{name} ")]
    lines = [f"  pcm-{command.name:<16} {command.purpose}" for command in inner]
    return "\n".join(["Commands", *lines, "", "Each has its own --help."])


def _place(setting: Setting) -> str:
    """The section that a setting stands in; the command's own come first."""
    return setting.name.rpartition(".")[0].partition(".")[0]


def _lines(setting: Setting, values: DictConfig) -> list[str]:
    found: Any = OmegaConf.to_container(values, resolve=False)
    for key in setting.name.split("."):
        found = found[key]
    value = _typed(found)
    head = f"  {setting.name}={value}" if value != GIVE else f"  {setting.name}=...   needed"
    limits = describe(setting.kind).replace(" to 2147483647", "")
    text = f"{_spoken(setting.text)} ({limits})" if setting.text else f"({limits})"
    return [head, *textwrap.wrap(text, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)]


def _spoken(text: str) -> str:
    """Return a docstring's text without its marks."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"\1", text).replace("`", "")
    return re.sub(r"\bNone\b", "null", text).rstrip(".")


def _typed(value: object) -> str:
    """Return a value as it is typed on the command line."""
    if isinstance(value, list):
        return "[" + ",".join(map(_typed, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}: {_typed(one)}" for key, one in value.items()) + "}"
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
