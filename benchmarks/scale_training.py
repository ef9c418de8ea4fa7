"""Rows a second of training and of distillation in one process and in two (docs/scale.md).

    python -m benchmarks.scale_training [--repeats 3] [--batch 256] [--output FILE]

The commands run under torchrun, one thread a process, in turns: a U-Net (``network=unet1d``) on
``released/pusht_demos``, and a head of ``released/pusht``. Training also runs on two nodes of one
process, where network namespaces can be made (Linux, root). Their ``metrics.jsonl`` is watched: the
time between two of its lines has everything in it that a step needs, data and pools too, and
nothing of start and end.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.nodes import networks, started
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.measure.tables import table

FILE = Path(__file__).parent / "results/scale/training.json"
HEAD = ["command", "processes", "rows/s", "times one", "start, s"]
POOL = 256
Start = Callable[[Sequence[str], Any], "list[subprocess.Popen[Any]]"]
"""Starts a command whose output goes to a file; returns the processes."""


@dataclass(frozen=True)
class Work:
    """A command and how much of it is timed.

    Attributes:
        name: of the command.
        words: its settings.
        every: steps between two lines of the log; of distillation those of a pool.
        lines: that are timed, after the first.
    """

    name: str
    words: tuple[str, ...]
    every: int
    lines: int


def works(batch: int) -> list[Work]:
    """Return what is measured."""
    data = ("dataset.path=released/pusht_demos", "threads=1", "device=cpu", f"train.batch={batch}")
    train = Work("train", ("task=pusht", "network=unet1d", *data), 2, 5)
    pool = (f"distill.pool={POOL}", "distill.reuse=16", f"distill.guess_batch={batch}")
    every = max(1, POOL * 16 // batch)
    return [train, Work("distill", ("policy=released/pusht", *pool, *data), every, 2)]


def local(processes: int, words: Sequence[str], said: Any) -> "list[subprocess.Popen[Any]]":
    """Start a command in some processes of this machine."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launch += [f"--nproc_per_node={processes}", "-m", "pcm_policy.cli", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return [subprocess.Popen(launch, env=environment, stdout=said, stderr=said)]


def apart(names: Sequence[str], words: Sequence[str], said: Any) -> "list[subprocess.Popen[Any]]":
    """Start a command on two nodes, in these networks."""
    return [started(name, rank, words, said) for rank, name in enumerate(names)]


def timed(work: Work, start: Start, output: Path) -> tuple[float, float]:
    """Run a command until its lines are there; return seconds a step, and until the first line."""
    words = [work.name, *work.words, f"output_dir={output}", f"train.log_every={work.every}"]
    words += ["train.steps=100000", "train.save_every=100000"]
    begin = time.monotonic()
    times: list[float] = []
    log = output / "metrics.jsonl"
    with (output.parent / f"{output.name}.log").open("w") as said:
        runs = start(words, said)
        try:
            while len(times) <= work.lines:
                if any(run.poll() is not None for run in runs):
                    raise SystemExit(f"{work.name} ended: {Path(said.name).read_text()[-2000:]}")
                there = log.read_text().count("\n") if log.exists() else 0
                times += [time.monotonic()] * (there - len(times))
                time.sleep(0.01)
        finally:
            for run in runs:
                run.terminate()
            for run in runs:
                run.wait()
    return (times[work.lines] - times[0]) / (work.lines * work.every), times[0] - begin


def measured(repeats: int, batch: int) -> list[dict[str, Any]]:
    """Time every command with one process and with two, in turns."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, networks() as names:
        for work in works(batch):
            starts: dict[str, Start] = {"1": partial(local, 1), "2": partial(local, 2)}
            if names and work.name == "train":
                starts["2, on two nodes"] = partial(apart, names)
            found: dict[str, list[tuple[float, float]]] = {where: [] for where in starts}
            for turn in range(repeats):
                for number, where in enumerate(list(starts)[:: -1 if turn % 2 else 1]):
                    output = Path(folder) / f"{work.name}-{turn}-{number}"
                    found[where].append(timed(work, starts[where], output))
                    print(json.dumps([work.name, where, *found[where][-1]]), flush=True)
            rate = {where: batch / median(step for step, _ in f) for where, f in found.items()}
            rows += [
                {
                    "command": work.name,
                    "processes": where,
                    "rows_per_s": rate[where],
                    "over_one": rate[where] / rate["1"],
                    "start_s": median(start for _, start in found[where]),
                    "step_s": [step for step, _ in found[where]],
                    "words": work.words,
                }
                for where in found
            ]
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--output", type=Path, default=FILE)
    asked = parser.parse_args(argv)
    load = os.getloadavg()[0]
    rows = measured(asked.repeats, asked.batch)
    report = {
        "batch": asked.batch,
        "repeats": asked.repeats,
        "rows": rows,
        "load_before_and_after": [load, os.getloadavg()[0]],
        **made_by(),
        "hardware": hardware(torch.device("cpu")),
    }
    write_text(asked.output, to_json(report))
    print(table(HEAD, list(map(cells, rows))))


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    names = ("command", "processes", "rows_per_s", "over_one", "start_s")
    found = (row[name] for name in names)
    return [f"{value:.2f}" if isinstance(value, float) else str(value) for value in found]


if __name__ == "__main__":
    main()
