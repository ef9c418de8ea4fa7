"""How far runs are apart that add the same gradients in another order (docs/scale.md).

    python -m benchmarks.scale_agreement [--steps 200] [--batch 16]

A U-Net is trained on ``released/pusht_demos``, and a head distilled for ``released/pusht_mlp``, in
runs of one seed: in one process; in one in two parts a step (``train.accumulate=2``); in two,
twice; in two for the first half and in one for the rest. Nothing is timed: a busy machine changes
no digit.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by
from pcm_policy.measure.tables import table
from pcm_policy.policy.tensors import load_tensors

FILE = Path(__file__).parent / "results/scale/agreement.json"
HEAD = ["command", "run", "compared with", "weights apart", "losses apart"]
WORK = {
    "train": ("task=pusht", "network=unet1d"),
    "distill": ("policy=released/pusht_mlp", "distill.pool=256", "distill.guess_batch=16"),
}


def run(command: str, output: Path, processes: int, *words: str) -> None:
    """Run a command in so many processes of one thread."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    given = [*WORK[command], "dataset.path=released/pusht_demos", "threads=1", "device=cpu"]
    given += [
        f"output_dir={output}",
        "train.log_every=5",
        "train.keep=9",
        "train.warmup=20",
        *words,
    ]
    subprocess.run(
        [*launch, f"--nproc_per_node={processes}", "-m", "pcm_policy.cli", command, *given],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def halved(whole: Path, output: Path, half: int) -> None:
    """Copy a run as it was in the middle."""
    shutil.copytree(whole, output, ignore=shutil.ignore_patterns("policy", ".lock"))
    for folder in (output / "checkpoints").glob("step-*"):
        if int(folder.name.removeprefix("step-")) > half:
            shutil.rmtree(folder)


def apart(one: Path, two: Path) -> dict[str, float]:
    """Return the largest distance of the last weights of two runs, and of their losses."""
    first, second = (
        load_tensors(max((run / "checkpoints").glob("step-*")) / "model.safetensors")
        for run in (one, two)
    )
    off = [float((v - second[k]).abs().max()) for k, v in first.items() if v.numel()]
    a, b = (
        np.array([x["loss"] for x in map(json.loads, lines.splitlines()) if "loss" in x])
        for lines in ((run / "metrics.jsonl").read_text() for run in (one, two))
    )
    return {"weights": max(off), "loss": float((abs(a - b) / a).max())}


def compared(command: str, steps: int, batch: int) -> list[dict[str, Any]]:
    """Make all runs of a command and return how far they are apart."""
    half = steps // 2
    words = [f"train.steps={steps}", f"train.batch={batch}", f"train.save_every={half}"]
    with tempfile.TemporaryDirectory() as folder:
        one, parts, two, again, mixed = (Path(folder) / x for x in ("1", "parts", "2", "2b", "21"))
        run(command, one, 1, *words)
        run(command, parts, 1, *words, "train.accumulate=2")
        run(command, two, 2, *words)
        run(command, again, 2, *words)
        halved(two, mixed, half)
        run(command, mixed, 1, *words, "resume=true")
        sides = [
            ("1 process, train.accumulate=2", "1 process", parts, one),
            ("2 processes", "1 process", two, one),
            ("2 processes, then 1", "1 process", mixed, one),
            ("2 processes, again", "2 processes", again, two),
        ]
        return [
            {"command": command, "side": side, "of": other, **apart(a, b)}
            for side, other, a, b in sides
        ]


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells for the table."""
    distances = (f"{row[name]:.1e}" if row[name] else "0" for name in ("weights", "loss"))
    return [row["command"], row["side"], row["of"], *distances]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    asked = parser.parse_args(argv)
    rows = [row for command in WORK for row in compared(command, asked.steps, asked.batch)]
    report = {"steps": asked.steps, "batch": asked.batch, "rows": rows, "words": WORK}
    report |= {**made_by(), "hardware": hardware(torch.device("cpu"))}
    write_text(FILE, to_json(report))
    print(table(HEAD, list(map(cells, rows))))


if __name__ == "__main__":
    main()
