"""Make the environment in which LeRobot's DiffusionPolicy runs, for ``benchmarks/compare.py``.

    python benchmarks/lerobot_env.py FOLDER
    export PCM_LEROBOT_PYTHON=FOLDER/bin/python

LeRobot 0.4.4 is the newest that runs on Python 3.11, but it declares ``torch<2.11`` and the
comparison needs the same torch on both sides. So its dependencies are pinned in
``lerobot_pins.txt``, as they were when the equality check passed, and pip's resolver is left out.
Nothing is installed into the project's own environment. Needs 2 GB and about two minutes.
"""

import subprocess
import sys
import venv
from pathlib import Path

TORCH = "2.13.0"
WITH_DEPENDENCIES = (f"torch=={TORCH}", "numpy==2.4.6", "safetensors==0.8.0")
WITHOUT = Path(__file__).with_name("lerobot_pins.txt")


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
    child = Path(__file__).with_name("lerobot_child.py")
    subprocess.run([str(python), str(child), "--version"], check=True)
    return python


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    if sys.version_info[:2] != (3, 11):
        sys.exit("the pins are for Python 3.11: run this with python3.11")
    print(f"export PCM_LEROBOT_PYTHON={make(Path(sys.argv[1]).resolve())}")
