"""Install the package beside certain versions of what it needs, and test it there.

    python -m benchmarks.versions [--only NAME] [--keep FOLDER]

Each row of :data:`ROWS` makes an environment of its own, installs the checkout by pip as a user
does, and runs the quick tests of :data:`QUICK` there. A row of LeRobot makes the environment of
``benchmarks.lerobot.env`` and runs :data:`PLUGIN` from here, which start LeRobot's commands there.
``results/versions.json`` keeps what was installed and what the tests said; a row that runs again
replaces its own. Needs ``python3.11`` to ``python3.13``, on the path or under pyenv, and up to
6 GB for each environment.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import RESULTS
from benchmarks.oldest import EXTRAS, FILE, ROOT, bounds
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import made_by
from pcm_policy.measure.tables import table

RESULT = RESULTS / "versions.json"
HEAD = ["row", "Python", "torch", "numpy", "LeRobot", "passed", "failed", "skipped"]
QUICK = (
    "tests/test_fields.py",
    "tests/test_optional.py",
    "tests/sampling/test_samplers.py",
    "tests/sampling/test_from_diffusers.py",
    "tests/sampling/test_noise.py",
    "tests/networks",
    "tests/datasets/test_replay.py",
    "tests/datasets/test_convert.py",
    "tests/policy/test_golden.py",
    "tests/policy/test_checkpoint.py",
    "tests/policy/test_hub.py",
    "tests/training/test_distillation.py",
    "tests/runtime/test_export.py::test_pcm_in_onnx",
    "tests/runtime/test_openvino.py",
    "tests/serving/test_server.py",
    "tests/rollout/test_evaluate.py",
    "tests/cli/test_cli.py",
)
PLUGIN = ("tests/adopt/test_lerobot_plugin.py",)
IMPORTS = "import pcm_policy.cli.main, pcm_policy.export, pcm_policy.rollout.evaluate"
LISTED = """
import importlib.metadata, json, platform
found = {d.name: d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | found))
"""


@dataclass(frozen=True)
class Row:
    """One environment: its name, its Python's version, and what pip installs into it.

    ``install`` is empty for LeRobot, whose recipe is that of ``benchmarks.lerobot.env``.
    """

    name: str
    python: str
    install: tuple[str, ...] = ()


TEST = ("-e", ".[pusht,hub,convert,video,test]")
OLD = ("-c", str(FILE), "-e", f".[{','.join(EXTRAS)}]", "pytest>=9", "hypothesis>=6")
ROWS = (
    Row("3.11-pinned", "3.11", ("-c", "constraints.txt", *TEST)),
    Row("3.11-oldest", "3.11", OLD),
    Row("3.11-newest", "3.11", TEST),
    Row("3.12-newest", "3.12", TEST),
    Row("3.13-newest", "3.13", TEST),
    Row("lerobot-0.4.4", "3.11"),
    Row("lerobot-0.6.1", "3.12"),
)


def interpreter(version: str) -> str:
    """Return the path of a Python such as ``3.12``.

    Raises:
        SystemExit: there is none; the message says where it was looked for.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [*sorted(pyenv.glob(f"{version}.*/bin/python")), shutil.which(f"python{version}")]
    for place in filter(None, places):
        asked = [str(place), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return str(place)
    raise SystemExit(f"no python{version} on the path or under {pyenv}: install it")


def clean() -> dict[str, str]:
    """Return the environment variables of a row's commands: the installed package is used."""
    dropped = {"PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PCM_LEROBOT_PYTHON"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return kept | {"OMP_NUM_THREADS": "1"}


def install(row: Row, folder: Path) -> Path:
    """Make a row's environment, or bring a kept one up to date, and return its Python."""
    base, python = interpreter(row.python), folder / "bin/python"
    if not row.install:
        if not (folder / "bin/lerobot-pcm").exists():  # which comes last
            words = [base, "-m", "benchmarks.lerobot.env", str(folder)]
            subprocess.run(words, cwd=ROOT, env=clean(), check=True)
        return python
    if not python.exists():
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "-q", "--no-compile", *row.install]
    subprocess.run(pip, cwd=ROOT, env=clean(), check=True)
    for words in ([python, "-c", IMPORTS], [folder / "bin/pcm-info"]):
        subprocess.run([*map(str, words)], cwd=folder, env=clean(), check=True)
    return python


def installed(python: Path) -> dict[str, str]:
    """Return the versions of Python and of what pyproject.toml names, as installed."""
    words = [str(python), "-c", LISTED]
    done = subprocess.run(words, env=clean(), capture_output=True, text=True, check=True)
    known = {"python", "lerobot", *(name.replace("_", "-") for name in bounds())}
    found = {name.lower().replace("_", "-"): v for name, v in json.loads(done.stdout).items()}
    return {name: found[name] for name in sorted(known) if name in found}


def tested(row: Row, python: Path, report: Path) -> dict[str, Any]:
    """Run a row's tests and return how they ended."""
    plugin = not row.install
    variables = clean() | ({"PCM_LEROBOT_PYTHON": str(python)} if plugin else {})
    runner = sys.executable if plugin else str(python)
    chosen = ("-m", "not slow", *(PLUGIN if plugin else QUICK))
    words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *chosen]
    subprocess.run([runner, *words], cwd=ROOT, env=variables, check=False)
    if not report.exists():
        raise SystemExit(f"{row.name}: pytest ended before it wrote its report: see above")
    return outcome(report)


def outcome(report: Path) -> dict[str, Any]:
    """Return how many tests passed, which failed, and why others were skipped.

    Args:
        report: what pytest wrote for ``--junitxml``.
    """
    passed, failed, skipped = 0, [], Counter[str]()
    for case in ElementTree.parse(report).iter("testcase"):
        ended = {child.tag: child for child in case}
        if ended.keys() & {"failure", "error"}:
            failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif "skipped" in ended:
            skipped[ended["skipped"].get("message", "")] += 1
        else:
            passed += 1
    return {"passed": passed, "failed": failed, "skipped": dict(sorted(skipped.items()))}


def tried(row: Row, folder: Path) -> dict[str, Any]:
    """Make a row's environment, test it, and return its result."""
    python = install(row, folder)
    found = {"name": row.name, "versions": installed(python), "commit": made_by()["commit"]}
    with tempfile.TemporaryDirectory() as scratch:
        return found | tested(row, python, Path(scratch, "tests.xml"))


def kept(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write a row's result in place of its last one; return all results in the order of ROWS."""
    before = json.loads(RESULT.read_text())["rows"] if RESULT.exists() else []
    rows = {row["name"]: row for row in (*before, result)}
    ordered = [rows[row.name] for row in ROWS if row.name in rows]
    write_text(RESULT, to_json({"quick": QUICK, "plugin": PLUGIN, "rows": ordered}))
    return ordered


def lines(results: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return the table's lines, one for each of :data:`ROWS`, run or not."""
    found = {row["name"]: row for row in results}
    return [cells(row, found.get(row.name)) for row in ROWS]


def cells(row: Row, result: Mapping[str, Any] | None) -> list[str]:
    """Return one line of the table; a row without a result says so."""
    if result is None:
        return [row.name, row.python, "", "", "", "not run", "", ""]
    versions = [result["versions"].get(x, "") for x in ("python", "torch", "numpy", "lerobot")]
    counts = (result["passed"], len(result["failed"]), sum(result["skipped"].values()))
    return [row.name, *versions, *map(str, counts)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", choices=[row.name for row in ROWS], help="one row")
    parser.add_argument("--keep", type=Path, help="folder that keeps the environments")
    asked = parser.parse_args(argv)
    results: list[dict[str, Any]] = []
    for row in ROWS:
        if asked.only in (None, row.name):
            with tempfile.TemporaryDirectory(prefix="pcm-versions-") as scratch:
                results = kept(tried(row, (asked.keep or Path(scratch)).resolve() / row.name))
    print(table(HEAD, lines(results)))
    if any(row["failed"] for row in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
