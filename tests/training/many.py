"""Several commands in the processes of torchrun: ``COMMAND WORD ... ; COMMAND WORD ... ;``."""

import sys

from pcm_policy.cli.main import run_command

words = sys.argv[1:]
while words:
    end = words.index(";")
    run_command(words[0], argv=words[1:end])
    words = words[end + 1 :]
