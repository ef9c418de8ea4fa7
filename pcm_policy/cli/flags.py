"""The flags of a command line: what begins with a dash, apart from the settings."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pcm_policy.errors import PcmError


@dataclass(frozen=True)
class Flags:
    """What was asked for beside the settings.

    Attributes:
        help: print what the command does and all its settings.
        version: print the version of this package.
        multirun: run once for each combination of values that are given as ``a,b``.
        cfg: print the composed settings and run nothing.
        resolve: print them with references filled in.
        config_dir: a folder of yours with more tasks, solvers ...
        words: the other words, in order.
    """

    help: bool
    version: bool
    multirun: bool
    cfg: bool
    resolve: bool
    config_dir: Path | None
    words: tuple[str, ...]

    def for_hydra(self) -> list[str]:
        """Return the flags of a sweep as hydra takes them."""
        folder = ["--config-dir", str(self.config_dir)] if self.config_dir else []
        return ["--multirun", *folder]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PcmError(message)


def read_flags(words: Sequence[str]) -> Flags:
    """Tell flags from settings.

    Raises:
        PcmError: an unknown flag, one without its value, or a folder that is not there.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for names in (("-h", "--help"), ("--version",), ("-m", "--multirun"), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    parser.add_argument("-c", "--cfg", choices=("job",))
    parser.add_argument("-cd", "--config-dir", type=Path)
    parser.add_argument("words", nargs="*")
    found = vars(parser.parse_intermixed_args(list(words)))
    folder = found["config_dir"]
    if folder is not None and not folder.is_dir():
        raise PcmError(f"--config-dir {folder} is no folder")
    found |= {"config_dir": folder.resolve() if folder else None, "cfg": found["cfg"] is not None}
    return Flags(**found | {"words": tuple(found["words"])})
