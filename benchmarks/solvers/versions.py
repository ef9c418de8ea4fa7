"""Time and chunks of every solver beside another checkout of this package, call by call in turns.

    python -m benchmarks.solvers.versions OTHER [--policy released/pusht_mlp] [--calls 200]

OTHER is a folder with ``pcm_policy`` in it. Both run in a process of their own, on one thread, and
take turns on the same observation and noise. Compared are medians of the CPU time of a call, which
other programs on the machine change little, and the chunks, bit by bit.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.measure.tables import table

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
CHILD = """
import hashlib, json, sys, time
import torch
torch.set_num_threads(1)
from pcm_policy import DiffusionPolicy
from pcm_policy.measure.exactness import paired_noise
name, rows = json.loads(sys.argv[1])
policy = DiffusionPolicy.from_pretrained(name)
obs, solvers = policy.held_out, {k: policy.solver(v) for k, v in rows.items()}
print("ready", flush=True)
for line in sys.stdin:
    key, number = json.loads(line)
    i, noise = number % len(obs), paired_noise(policy, solvers[key], 1, number)
    start = time.process_time()
    found = policy.solve(obs[i : i + 1], solvers[key], noise)
    spent = time.process_time() - start
    chunk = hashlib.sha256(found.chunk.numpy().tobytes()).hexdigest()
    print(json.dumps([spent, chunk, found.rounds, found.sample.flatten().tolist()]), flush=True)
"""
OLD = CHILD.replace("pcm_policy.measure.exactness", "pcm_policy.exactness")


class Side:
    """One version in a process of its own."""

    def __init__(self, folder: Path, policy: str, rows: dict[str, Any]) -> None:
        moved = (folder / "pcm_policy" / "measure").exists()
        env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD if moved else OLD, json.dumps([policy, rows])]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, env=env, text=True, cwd=folder
        )
        self._read()

    def __call__(self, key: str, number: int) -> Any:
        """Solve once; return seconds, a digest of the chunk, rounds and the chunk."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([key, number]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def compare(sides: list[Side], key: str, calls: int) -> list[str]:
    """Return one line of the table."""
    for number in range(5):
        for side in sides:
            side(key, number)
    answers: list[list[Any]] = [[], []]
    for number in range(calls):
        order = (0, 1) if number % 2 else (1, 0)
        for i in order:
            answers[i].append(sides[i](key, number))
    before, now = ([1e3 * spent for spent, *_ in one] for one in answers)
    change = float(np.median(now) / np.median(before) - 1)
    same = sum(a[1] == b[1] for a, b in zip(*answers, strict=True))
    off = max(float(np.abs(np.subtract(a[3], b[3])).max()) for a, b in zip(*answers, strict=True))
    rounds = [f"{np.mean([a[2] for a in one]):.2f}" for one in answers]
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
