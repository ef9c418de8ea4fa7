"""Run commands of an environment that has LeRobot, with this checkout's package and plugin."""

import os
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]


@cache
def _links() -> TemporaryDirectory[str]:
    """A folder with the package alone: the root's ``datasets`` would hide Hugging Face's."""
    folder = TemporaryDirectory(prefix="pcm-checkout-")
    (Path(folder.name) / "pcm_policy").symlink_to(ROOT / "pcm_policy")
    return folder


def call(*words: str | Path, check: bool = True, **variables: str) -> str:
    """Return what the command printed.

    Args:
        words: the command.
        check: whether it has to succeed.
        variables: of its environment.
    """
    folder = _links().name  # not the root, which python -c would look into first
    path = os.pathsep.join((folder, str(ROOT / "lerobot_policy_pcm/src")))
    environment = os.environ | {"PYTHONPATH": path, "SDL_VIDEODRIVER": "dummy"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | variables
    command = list(map(str, words))
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=folder
    )
    output = done.stdout + done.stderr
    assert not check or done.returncode == 0, output[-3000:]
    return output
