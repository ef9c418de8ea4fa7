"""Messages of a run; with several processes only the first one prints."""

import os
import sys

from tqdm import tqdm

from pcm_policy.errors import printable_lines


def is_first() -> bool:
    """Whether this is the first process, by the rank that a launcher such as torchrun gives."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str) -> None:
    """Print a line on standard error, above a progress bar."""
    if is_first():
        tqdm.write(printable_lines(text), file=sys.stderr)
