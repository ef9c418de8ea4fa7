"""Every type is right. A test beside the others, because it keeps one core busy for a minute."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_types_are_right() -> None:
    """What is strict, and where, is in pyproject.toml."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
