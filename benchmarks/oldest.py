"""Write the oldest versions that pyproject.toml allows into ``constraints-oldest.txt``.

    python -m benchmarks.oldest

``python -m benchmarks.versions --only 3.11-oldest`` installs and tries them.
"""

import argparse
import re
import tomllib
from pathlib import Path

from pcm_policy.files import write_text

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints-oldest.txt"
EXTRAS = (
    "pusht", "serve", "hub", "clip", "images", "export", "openvino", "convert", "video",
)  # fmt: skip
HEAD = "# The oldest versions that pyproject.toml allows (python -m benchmarks.oldest).\n"


def bounds() -> dict[str, str | None]:
    """Return what the package and :data:`EXTRAS` need, and the lower bound of each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"]]
    needs += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    read = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:[>=]=([\w.]+))?", line) for line in needs)
    return dict(found.groups() for found in read if found)


def oldest() -> list[str]:
    """Return ``name==version`` of every lower bound, sorted."""
    return [f"{name}=={bound}" for name, bound in sorted(bounds().items()) if bound]


def main() -> None:
    """Write the constraints."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    write_text(FILE, HEAD + "\n".join(oldest()) + "\n")


if __name__ == "__main__":
    main()
