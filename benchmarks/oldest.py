"""Run the package on the oldest versions that pyproject.toml allows.

    python -m benchmarks.oldest

It makes a virtual environment in a temporary folder, installs the versions of
``constraints-oldest.txt`` and runs the commands and tests of :data:`TRIED` there. ``--write`` only
writes that file anew from the bounds in pyproject.toml. torch is taken as it comes (``--torch
VERSION`` for a certain one): its old builds for a GPU are gigabytes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints-oldest.txt"
EXTRAS = ("pusht", "serve", "hub", "export", "convert", "video")
SKIPPED = {"torch", "torchvision", "tqdm"}
TRIED = (
    (
        "-c",
        "import pcm_policy, pcm_policy.cli.main, pcm_policy.export, pcm_policy.rollout.evaluate",
    ),
    ("-m", "pcm_policy.cli", "info"),
    *(
        ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", folder)
        for folder in (
            "tests/datasets/test_replay.py",
            "tests/datasets/test_convert.py",
            "tests/policy/test_golden.py",
            "tests/serving/test_server.py",
            "tests/rollout/test_evaluate.py",
            "tests/cli/test_cli.py",
        )
    ),
)


def oldest() -> list[str]:
    """Return ``name==version`` of every lower bound, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"]]
    needs += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    found = {}
    for line in needs:
        name, bound = re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:[>=]=([\w.]+))?", line).groups()
        if name not in SKIPPED:
            found[name] = bound
    return [f"{name}=={bound}" for name, bound in sorted(found.items())]


def write() -> None:
    """Write the constraints."""
    head = (
        "# The oldest versions that pyproject.toml allows (python -m benchmarks.oldest --write).\n"
    )
    FILE.write_text(head + "\n".join(oldest()) + "\n")


def main() -> None:
    """Install and try."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--torch", default="")
    asked = parser.parse_args()
    if asked.write:
        return write()
    with tempfile.TemporaryDirectory(prefix="pcm-oldest-") as scratch:
        subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
        python = str(Path(scratch, "bin/python"))
        more = ["tqdm", "pytest>=8", "hypothesis>=6", "pytest-timeout", "imageio[ffmpeg]"]
        torch = f"torch=={asked.torch}" if asked.torch else "torch"
        pip = [python, "-m", "pip", "install", "-q", "-c", str(FILE), torch, *more]
        subprocess.run([*pip, *(line.split("==")[0] for line in oldest())], check=True)
        for words in TRIED:
            print(" ".join(words), flush=True)
            environment = os.environ | {"PYTHONPATH": str(ROOT)}
            subprocess.run([python, *words], cwd=ROOT, env=environment, check=True)
    return None


if __name__ == "__main__":
    main()
