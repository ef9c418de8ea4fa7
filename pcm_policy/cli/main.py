"""The commands' entry points, all of one pattern: flags, words, settings, work, and one line.

``pcm-NAME ...`` and ``python -m pcm_policy.cli NAME ...`` are the same.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from pcm_policy.cli.commands import COMMANDS, Command
from pcm_policy.cli.compose import (
    CONFIGS,
    composed,
    config_name,
    jobs,
    overrides_of,
    settings_of,
    shown,
)
from pcm_policy.cli.flags import Flags, read_flags
from pcm_policy.cli.help import command_help, group_help
from pcm_policy.errors import PcmError
from pcm_policy.settings import suggestion


def main(name: str, argv: Sequence[str] | None = None) -> None:
    """Run ``pcm-NAME`` with the words of the command line; a subcommand is their first."""
    words = list(sys.argv[1:] if argv is None else argv)
    inner = {one.partition(" ")[2] for one in COMMANDS if one.startswith(f"{name} ")}
    if words and words[0] in inner:
        name = f"{name} {words.pop(0)}"
    if name in COMMANDS:
        return run_command(name, argv=words)
    with _one_line(name):  # a command that has subcommands alone
        flags = read_flags(words[:1])
        if flags.words:
            raise PcmError(f"no command {words[0]}: {suggestion(words[0], sorted(inner))}")
        print(f"pcm_policy {version('pcm_policy')}" if flags.version else group_help(name))


def run_command(
    name: str, run: Callable[[Any], Any] | None = None, argv: Sequence[str] | None = None
) -> None:
    """Compose the settings of a command, check all of them, and run it.

    A :class:`PcmError` ends the process with one line and exit code 2.

    Args:
        name: of the command, such as ``eval`` or ``bench tune``.
        run: what to run on the settings, in place of what the table of commands names.
        argv: words of the command line; those of this process unless given.
    """
    command = COMMANDS[name]
    with _one_line(name, command.resumes):
        flags = read_flags(list(sys.argv[1:] if argv is None else argv))
        if flags.version:
            print(f"pcm_policy {version('pcm_policy')}")
        elif flags.help:
            print(command_help(command))
        else:
            _run(command, run or command, flags)


def _run(command: Command, run: Callable[[Any], Any], flags: Flags) -> None:
    """Check every run that the words ask for, then begin."""
    if flags.config_dir is not None:
        sys.path.append(str(flags.config_dir))  # for plugins that lie beside the choices
    overrides = overrides_of(command.name, flags.words, flags.multirun)
    if flags.cfg:
        print(shown(composed(command.name, overrides, flags.config_dir), flags.resolve), end="")
        return
    wanted = jobs(overrides) if flags.multirun else [overrides]
    checked = [
        settings_of(command.name, composed(command.name, job, flags.config_dir)) for job in wanted
    ]
    if not flags.multirun:
        return _work(run, checked[0])

    def job(config: DictConfig) -> None:
        with _one_line(command.name, command.resumes):
            _work(run, settings_of(command.name, config))

    sys.argv[1:] = [*flags.for_hydra(), *overrides]
    name, place = config_name(command.name), f"pkg://{CONFIGS}"
    hydra.main(version_base="1.3", config_path=place, config_name=name)(job)()


def _work(run: Callable[[Any], Any], settings: Any) -> None:
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    run(settings)


@contextmanager
def _one_line(name: str, resumes: bool = False) -> Iterator[None]:
    """End the process with one line where a user's mistake, or the user, ends the command."""
    try:
        yield
    except PcmError as error:
        message, code = str(error), 2
    except KeyboardInterrupt as error:
        own = "interrupted" + ("; resume=true continues it" if resumes else "")
        message, code = str(error) or own, 130
    else:
        return
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    print(f"pcm-{name}: error: {line}", file=sys.stderr)
    raise SystemExit(code)


train, distill, evaluate, bench, data = (
    partial(main, name) for name in ("train", "distill", "eval", "bench", "data")
)
serve, adopt, export, info = (partial(main, name) for name in ("serve", "import", "export", "info"))
