"""Time and chunks of every solver beside another checkout of this package, call by call in turns.

    python -m benchmarks.solvers.versions OTHER [--policy released/pusht_mlp] [--calls 200]

OTHER is a folder with ``pcm_policy`` in it. Both versions are imported into one process, on one
thread, and take turns on the same observation and noise. Compared are medians of the CPU time of a
call, which other programs on the machine change little, and the chunks, bit by bit.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from pcm_policy.measure.tables import table

PACKAGES = ("pcm_policy", "envs", "datasets")
"""What both versions call alike."""

CERTIFIED = {"tolerance": 1e-3}
ROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    name: (words, words)
    for name, words in {
        "ddpm": {"method": "sequential", "sampler": "ddpm"},
        "ddim 16": {"method": "sequential", "sampler": "ddim", "steps": 16},
        "dpmpp 8": {"method": "sequential", "sampler": "dpmpp_2m", "steps": 8},
        "picard 4": {"method": "picard", "rounds": 4},
        "picard window": {"method": "picard", "rounds": 28, "window": 5},
        "picard certified": {"method": "picard", **CERTIFIED},
        "coarse 4": {"method": "coarse", "rounds": 4},
        "coarse certified": {"method": "coarse", **CERTIFIED},
        "anderson 4": {"method": "anderson", "rounds": 4},
        "anderson certified": {"method": "anderson", **CERTIFIED},
        "newton 3": {"method": "newton", "rounds": 3},
        "newton certified": {"method": "newton", **CERTIFIED},
        "paradigms 8": {"method": "paradigms", "rounds": 8},
        "pcm 1": {"method": "pcm", "rounds": 1},
        "pcm 2": {"method": "pcm", "rounds": 2},
        "pcm 4": {"method": "pcm", "rounds": 4},
        "pcm settle": {"method": "pcm", "settle": 0.02},
    }.items()
}
"""Settings as another version reads them, and as this one does."""
ROWS["paradigms certified"] = ({"method": "paradigms", "tolerance": 1e-2},) * 2
ROWS["pcm ramp"] = (
    {"method": "pcm", "rounds": 3, "stiffness": 1.0},
    {"method": "pcm", "rounds": 3, "shares": [1.0, 2 / 3, 1 / 3]},
)
ROWS["adaptive certified"] = (
    {"method": "pcm", "adaptive": True, **CERTIFIED},
    {"method": "adaptive", **CERTIFIED},
)
ROWS["pcm certified"] = ({"method": "pcm", **CERTIFIED}, {"method": "pcm", **CERTIFIED})


class _In(MetaPathFinder):
    """Finds the packages of both versions in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find a package at the top; what is in it is found as usual."""
        return PathFinder.find_spec(name, [str(self.folder)]) if name in PACKAGES else None


class Side:
    """One version of the package, imported beside the other one."""

    def __init__(self, folder: Path, policy: str, rows: dict[str, Any]) -> None:
        self._modules: dict[str, ModuleType] = {}
        with self._alone(folder):
            package = importlib.import_module("pcm_policy")
            if package.__file__ is None or folder not in Path(package.__file__).parents:
                sys.exit(f"{folder}: no pcm_policy in this folder")
            moved = (folder / "pcm_policy" / "measure").exists()
            name = "pcm_policy.measure.exactness" if moved else "pcm_policy.exactness"
            self._noise = importlib.import_module(name).paired_noise
            self._policy = package.DiffusionPolicy.from_pretrained(policy)
            self._solvers = {key: self._policy.solver(words) for key, words in rows.items()}

    @contextmanager
    def _alone(self, folder: Path | None = None) -> Iterator[None]:
        """Let imports find this version's modules, and keep what they load."""
        sys.modules.update(self._modules)
        finders = [] if folder is None else [_In(folder)]
        sys.meta_path[:0] = finders
        try:
            yield
        finally:
            del sys.meta_path[: len(finders)]
            names = [name for name in sys.modules if name.partition(".")[0] in PACKAGES]
            self._modules = {name: sys.modules.pop(name) for name in names}

    def __call__(self, key: str, number: int) -> tuple[float, Any]:
        """Solve once; return seconds and the result."""
        with self._alone():
            obs, solver = self._policy.held_out, self._solvers[key]
            i, noise = number % len(obs), self._noise(self._policy, solver, 1, number)
            start = time.process_time()
            found = self._policy.solve(obs[i : i + 1], solver, noise)
            return time.process_time() - start, found


def compare(sides: list[Side], key: str, calls: int) -> list[str]:
    """Return one line of the table."""
    for number in range(5):
        for side in sides:
            side(key, number)
    answers: list[list[Any]] = [[], []]
    for number in range(calls):
        for i in (0, 1) if number % 2 else (1, 0):
            answers[i].append(sides[i](key, number))
    before, now = ([1e3 * spent for spent, _ in one] for one in answers)
    change = float(np.median(now) / np.median(before) - 1)
    there, here = ([found for _, found in one] for one in answers)
    same = sum(a.chunk.equal(b.chunk) for a, b in zip(there, here, strict=True))
    off = max(float((a.sample - b.sample).abs().max()) for a, b in zip(there, here, strict=True))
    rounds = [f"{np.mean([found.rounds for found in one]):.2f}" for one in (there, here)]
    times = [f"{np.median(one):.2f}" for one in (before, now)]
    return [key, *times, f"{change:+.1%}", *rounds, f"{same}/{calls}", f"{off:.0e}"]


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("other", type=Path)
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    options = parser.parse_args()
    here = Path(__file__).parents[2]
    torch.set_num_threads(1)
    for name in [name for name in sys.modules if name.partition(".")[0] in PACKAGES]:
        del sys.modules[name]  # this version's own are imported as the other's are
    sides = [
        Side(folder.resolve(), options.policy, {k: ROWS[k][i] for k in options.rows})
        for i, folder in enumerate((options.other, here))
    ]
    names = ["solver", "ms there", "ms here", "change", "rounds there", "here", "same bits", "off"]
    found = []
    for key in options.rows:
        found.append(compare(sides, key, options.calls))
        print(*found[-1], sep="  ", file=sys.stderr, flush=True)  # minutes pass between two rows
    print(table(names, found))


if __name__ == "__main__":
    main()
