"""A checkout without links is refused when it is built, before setuptools is asked for."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("broken", ["envs", "datasets", "configs"])
def test_links_that_are_files_are_refused(tmp_path: Path, broken: str) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    for name in ("envs", "datasets", "configs"):
        if name == broken:  # what git writes where it makes no links
            (tmp_path / "pcm_policy").mkdir(exist_ok=True)
            (tmp_path / "pcm_policy" / name).write_text(f"../{name}")
        else:
            (tmp_path / "pcm_policy" / name).mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"pcm_policy/{broken} is no folder" in done.stderr
    assert "core.symlinks=true" in done.stderr
