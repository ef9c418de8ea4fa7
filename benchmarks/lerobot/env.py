"""Make an environment in which LeRobot runs: its policies, its commands and Push-T.

    python -m benchmarks.lerobot.env FOLDER
    export PCM_LEROBOT_PYTHON=FOLDER/bin/python

The Python that runs this decides which LeRobot: 3.11 gets 0.4.4, the newest that runs there, 3.12
gets 0.6.1. Several environments are named together as in ``PATH``,
``PCM_LEROBOT_PYTHON=A/bin/python:B/bin/python``.

LeRobot 0.4.4 declares ``torch<2.11`` and the comparison needs the same torch on both sides. So its
dependencies are pinned in ``pins.txt``, as they were when the equality check passed, and pip's
resolver is left out. LeRobot 0.6.1 is installed by pip's resolver.

This package and its plugin for LeRobot are linked into the environment, so that
``FOLDER/bin/lerobot-pcm`` and ``FOLDER/bin/lerobot-eval`` run imported policies. Nothing is
installed into the project's own environment. Needs about two minutes and 2 GB (0.4.4) or 5 GB
(0.6.1, with what torch needs on a GPU).
"""

import argparse
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
Pip = Callable[..., None]


def make(folder: Path) -> Path:
    """Make the environment and return its Python.

    Raises:
        subprocess.CalledProcessError: pip could not install a package; its message is on the
            screen.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"

    def pip(*words: str) -> None:
        command = [str(python), "-m", "pip", "install", "--quiet", *words]
        subprocess.run(command, check=True)

    RECIPES[sys.version_info[:2]](pip, python)
    pip("--no-deps", "-e", str(ROOT), "-e", str(ROOT / "lerobot_policy_pcm"))
    child = ROOT / "pcm_policy/adopt/originals/serve_lerobot.py"
    subprocess.run([str(python), str(child), "--version"], check=True)
    return python


def _lerobot_0_4_4(pip: Pip, python: Path) -> None:
    pip("torch==2.13.0", "numpy==2.4.6", "safetensors==0.8.0")
    pip("--no-deps", "-r", str(HERE / "pins.txt"))
    _fit_torchvision(python)


def _lerobot_0_6_1(pip: Pip, python: Path) -> None:
    policies, commands = "diffusion,multi-task-dit,smolvla,pi", "pusht,training,evaluation"
    pip(f"lerobot[{policies},{commands}]==0.6.1")


RECIPES = {(3, 11): _lerobot_0_4_4, (3, 12): _lerobot_0_6_1}


def _fit_torchvision(python: Path) -> None:
    """Let LeRobot's commands import torchvision beside a CPU torch; see ``vision.py``."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    site = Path(done.stdout.strip())
    shutil.copy(HERE / "vision.py", site / "lerobot_vision.py")
    common = ROOT / "pcm_policy/adopt/originals/common.py"
    shutil.copy(common, site / "lerobot_vision_common.py")
    (site / "lerobot_vision.pth").write_text("import lerobot_vision\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="gets the environment")
    folder = parser.parse_args().folder
    if sys.version_info[:2] not in RECIPES:
        known = " or ".join(f"python{major}.{minor}" for major, minor in RECIPES)
        sys.exit(f"no recipe for Python {sys.version.split()[0]}: run this with {known}")
    print(f"export PCM_LEROBOT_PYTHON={make(folder.resolve())}")
