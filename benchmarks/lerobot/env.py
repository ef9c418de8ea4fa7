"""Make the environment in which LeRobot 0.4.4 runs: its policies, its commands and Push-T.

    python -m benchmarks.lerobot.env FOLDER
    export PCM_LEROBOT_PYTHON=FOLDER/bin/python

LeRobot 0.4.4 is the newest that runs on Python 3.11, but it declares ``torch<2.11`` and the
comparison needs the same torch on both sides. So its dependencies are pinned in
``lerobot_pins.txt``, as they were when the equality check passed, and pip's resolver is left out.
This package and its plugin for LeRobot are linked into it, so that ``FOLDER/bin/lerobot-pcm`` and
``FOLDER/bin/lerobot-eval`` run imported policies. Nothing is installed into the project's own
environment. Needs 2 GB and about two minutes.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

TORCH = "2.13.0"
WITH_DEPENDENCIES = (f"torch=={TORCH}", "numpy==2.4.6", "safetensors==0.8.0")
WITHOUT = Path(__file__).with_name("pins.txt")
ROOT = Path(__file__).parents[2]


def make(folder: Path) -> Path:
    """Make the environment and return its Python.

    Raises:
        subprocess.CalledProcessError: pip could not install a pin; its message is on the screen.
    """
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *WITH_DEPENDENCIES], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(WITHOUT)], check=True)
    _fit_torchvision(python)
    linked = ["-e", str(ROOT), "-e", str(ROOT / "lerobot_policy_pcm")]
    subprocess.run([*pip, "--no-deps", *linked], check=True)
    child = ROOT / "pcm_policy/adopt/originals/serve_lerobot.py"
    subprocess.run([str(python), str(child), "--version"], check=True)
    return python


def _fit_torchvision(python: Path) -> None:
    """Let LeRobot's commands import torchvision beside a CPU torch; see ``vision.py``."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True)
    site = Path(done.stdout.strip())
    shutil.copy(Path(__file__).with_name("vision.py"), site / "lerobot_vision.py")
    common = ROOT / "pcm_policy/adopt/originals/common.py"
    shutil.copy(common, site / "lerobot_vision_common.py")
    (site / "lerobot_vision.pth").write_text("import lerobot_vision\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="gets the environment")
    folder = parser.parse_args().folder
    if sys.version_info[:2] != (3, 11):
        sys.exit("the pins are for Python 3.11: run this with python3.11")
    print(f"export PCM_LEROBOT_PYTHON={make(folder.resolve())}")
