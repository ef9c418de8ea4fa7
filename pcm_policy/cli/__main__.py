"""``python -m pcm_policy.cli.main train ...``, for launchers of several processes."""

import sys

from pcm_policy.cli.main import COMMANDS

if __name__ == "__main__":
    COMMANDS[sys.argv.pop(1)]()
