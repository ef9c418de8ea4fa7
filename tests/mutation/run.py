"""Make each deliberate change in a copy of the tree, and see whether the tests notice.

``python -m tests.mutation.run [WORD ...] [--out FILE]`` from the repository's root runs the changes
whose file or text contains a word, all without one. Before a group's first change its tests run on
the unchanged copy; where they fail, the group is not judged. It takes long, so it is no part of
``make test``, which checks only that every change still fits the program. The packages are loaded
once: each change is a fork.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import gymnasium  # noqa: F401  loaded before the forks
import hypothesis  # noqa: F401
import pytest
import torch

from tests.mutation.table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
LIMIT_S = 900
SAID = ".pytest-said"


def copied(folder: Path) -> Path:
    """Copy the files that git knows, links as links."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_symlink() or source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
    return folder


def _tests(tree: Path, tests: tuple[str, ...]) -> None:
    """Run tests in the copy, in a process of their own, and exit with pytest's code."""
    os.chdir(tree)
    os.environ["PYTHONPATH"] = str(tree)
    sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "pcm_policy")]:
        del sys.modules[name]
    # bytecode is kept by whole seconds and size, which a change may leave as they were
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    with (tree / SAID).open("w") as text, redirect_stdout(text), redirect_stderr(text):
        options = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        code = pytest.main([*options, *tests])
    os._exit(int(code))


def run(tree: Path, tests: tuple[str, ...]) -> str:
    """Return ``passed``, ``failed`` or ``timeout``.

    Raises:
        SystemExit: pytest could not run them.
    """
    process = multiprocessing.get_context("fork").Process(target=_tests, args=(tree, tests))
    process.start()
    process.join(LIMIT_S)
    if process.is_alive():
        process.kill()
        process.join()
        return "timeout"
    if process.exitcode not in (0, 1, 2):  # 2: a file could not be imported
        raise SystemExit(f"pytest could not run {tests}: exit code {process.exitcode}")
    return "failed" if process.exitcode else "passed"


def noticed(tree: Path, mutant: Mutant) -> str:
    """Return ``killed``, ``survived`` or ``timeout``."""
    file = tree / mutant.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(mutant.applied(whole), encoding="utf-8")
    try:
        said = run(tree, mutant.tests)
    finally:
        file.write_text(whole, encoding="utf-8")
    return {"passed": "survived", "failed": "killed"}.get(said, said)


def main() -> None:
    """Run the changes that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--out", type=Path, default=Path(os.devnull))
    asked = parser.parse_args()
    chosen = [
        m for m in MUTANTS if not asked.words or any(w in m.file + m.old for w in asked.words)
    ]
    counts: dict[str, int] = {}
    fine: dict[tuple[str, ...], bool] = {}
    with tempfile.TemporaryDirectory(prefix="pcm-mutation-") as scratch:
        tree = copied(Path(scratch))
        for mutant in chosen:
            if (tree / mutant.file).read_text().count(mutant.old) != 1:
                counts["stale"] = counts.get("stale", 0) + 1
                print(f"stale: {mutant.file}: {mutant.old!r}", file=sys.stderr)
                continue
            if mutant.tests not in fine:
                fine[mutant.tests] = run(tree, mutant.tests) == "passed"
                if not fine[mutant.tests]:
                    print((tree / SAID).read_text()[-3000:], file=sys.stderr, flush=True)
            if not fine[mutant.tests]:
                counts["untested"] = counts.get("untested", 0) + 1
                continue
            start = time.monotonic()
            said = noticed(tree, mutant)
            counts[said] = counts.get(said, 0) + 1
            line = {"said": said, "file": mutant.file, "old": mutant.old, "new": mutant.new}
            text = json.dumps(line | {"s": round(time.monotonic() - start, 1)})
            print(text, flush=True)
            with asked.out.open("a") as out:
                out.write(text + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
