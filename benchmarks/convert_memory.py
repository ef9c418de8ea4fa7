"""Peak memory and time of ``pcm-data convert`` on a large file, from every format and to every one.

    python -m benchmarks.convert_memory FOLDER [--steps 1000000] [--output FILE.json]

Writes a replay buffer of random numbers, 27 a step in episodes of 200 steps, and converts it in a
ring: every format is written once and read once. Each conversion is a process of its own, whose
peak resident set the kernel counts; ``nothing`` is a process that only imports what all of them do.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.formats.writing import write_replay
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.tables import table

EPISODE = 200
RING = ("a.zarr", "b.hdf5", "c", "minari:d-v0", "e", "f.zarr")
NAMES = {"a.zarr": "zarr", "b.hdf5": "robomimic", "c": "LeRobot v3.0", "e": "LeRobot v2.1"}
NAMES |= {"minari:d-v0": "Minari", "f.zarr": "zarr"}
SETTINGS = {"c": ["fps=10"], "e": ["lerobot_version=v2.1"]}


def episodes(steps: int) -> Iterator[dict[str, Any]]:
    """Yield random episodes, float32: 20 numbers of state and 7 of action a step."""
    rng = np.random.default_rng(0)
    for _ in range(steps // EPISODE):
        kinds = (("observation.state", 20), ("action", 7))
        yield {k: rng.standard_normal((EPISODE, n), dtype=np.float32) for k, n in kinds}


def measured(words: list[str], folder: Path) -> tuple[float, float]:
    """Run Python in ``folder``; return seconds and the peak resident set in megabytes."""
    environment = os.environ | {"MINARI_DATASETS_PATH": str(folder / "minari")}
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed: see above")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new folder for the files")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    write_replay(args.folder / RING[0], episodes(args.steps))
    rows = []
    code = "import pcm_policy.cli.data, pcm_policy.datasets.convert"
    rows.append(("nothing", *measured(["-c", code], args.folder)))
    for source, target in pairwise(RING):
        words = ["-m", "pcm_policy.cli", "data", "convert", source, target]
        found = measured([*words, *SETTINGS.get(target, [])], args.folder)
        rows.append((f"{NAMES[source]} -> {NAMES[target]}", *found))
        cells = [[name, f"{seconds:.0f}", f"{peak:.0f}"] for name, seconds, peak in rows]
        print(table(["conversion", "s", "peak MB"], cells[-1:]), flush=True)
    print(table(["conversion", "s", "peak MB"], cells))
    if args.output is not None:
        keys = ("conversion", "seconds", "peak_mb")
        report = {"steps": args.steps, "rows": [dict(zip(keys, r, strict=True)) for r in rows]}
        write_text(args.output, to_json(report))


if __name__ == "__main__":
    main()
