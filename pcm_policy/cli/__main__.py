"""``python -m pcm_policy.cli NAME ...``: the command ``pcm-NAME``, for launchers of processes."""

import sys

from pcm_policy.cli.commands import COMMANDS
from pcm_policy.cli.main import main

if __name__ == "__main__":
    names = sorted({name.partition(" ")[0] for name in COMMANDS})
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        sys.exit(f"python -m pcm_policy.cli NAME ...: NAME is one of {', '.join(names)}")
    main(sys.argv.pop(1))
