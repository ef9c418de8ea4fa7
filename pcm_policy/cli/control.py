"""The commands of the controller: the timed loop, the server."""

import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig

from pcm_policy.cli.compose import run_command


def loop_main(config: DictConfig) -> dict[str, Any]:
    """Run the loop in real time; returns what ``loop.json`` holds."""
    from pcm_policy.cli import loop as loop_command

    return loop_command.run(config)


def serve_main(config: DictConfig) -> None:
    """Serve a policy until interrupted."""
    from pcm_policy.cli.serve import run

    run(config)


def loop(argv: Sequence[str]) -> None:
    """Entry point of ``pcm-bench loop``."""
    sys.argv[1:] = argv  # hydra reads it for --help
    run_command("loop", loop_main, argv, title="bench loop")


def serve() -> None:
    """Entry point of ``pcm-serve``."""
    run_command("serve", serve_main)
