"""Training on a large LeRobot folder of videos: memory, the time that reading takes, and kills.

    python -m benchmarks.big_lerobot OUTPUT [--frames 100000] [--steps 20]

Writes a LeRobot v3.0 folder with two cameras (AV1) and one of a tenth of the frames, and trains an
image policy on each as it is, in a process of its own (docs/training.md): ResNet-18 encoders, the
default network, batch 64, one CPU thread. The large one is trained on a second time, in a run that
is killed while it decodes and again between two checkpoints: it must end at the same weights.
OUTPUT needs room for the decoded frames, 42 kB for a frame of both; all that is in it is removed.
"""

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import RESULTS
from benchmarks.watched import HEAD, command, later, lines, watched
from pcm_policy.datasets.formats.lerobot_writing import write_lerobot
from pcm_policy.datasets.frames import open_frames
from pcm_policy.datasets.recording import Episode, Recording
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware, made_by, versions
from pcm_policy.measure.tables import table
from pcm_policy.training.timing import Stopwatch

FILE = RESULTS / "memory/big_lerobot.json"
EPISODE, SIZE, FPS, BATCH = 200, 84, 20, 64
CAMERAS = ("observation.images.top", "observation.images.wrist")
STATE, ACTION = 14, 7
TRAINING = [
    *("device=cpu", "threads=1", f"train.batch={BATCH}", "train.warmup=1", "train.log_every=1"),
    "policy.vision.crop=[76,76]",
]
LOADING = "import sys; from pcm_policy import DiffusionPolicy as P; P.from_pretrained(sys.argv[1])"
TIME = ["", "a tenth", "the whole"]


def make(path: Path, episodes: int, steps: int = EPISODE) -> None:
    """Write a LeRobot v3.0 folder, an episode at a time: numbers, and views of coloured squares."""
    rng = np.random.default_rng(0)
    fields = {"observation.state": np.dtype((np.float32, (STATE,)))}
    fields |= {"action": np.dtype((np.float32, (ACTION,)))}
    fields |= {name: np.dtype((np.uint8, (SIZE, SIZE, 3))) for name in CAMERAS}

    def read(names: Collection[str]) -> Iterator[Episode]:
        for _ in range(episodes):
            state = rng.uniform(-1, 1, (steps, STATE)).astype(np.float32)
            made = {"observation.state": state, "action": state[:, :ACTION]}
            made |= {name: _views(rng, steps) for name in CAMERAS}
            yield {name: made[name] for name in names}

    write_lerobot(path, Recording(path, fields, episodes, read, {"fps": FPS}), video="av1")


def _views(rng: np.random.Generator, steps: int) -> NDArray[np.uint8]:
    """Return what a camera sees that wanders over squares, ``(steps, SIZE, SIZE, 3)``."""
    squares = rng.integers(0, 256, (2 * SIZE // 8, 2 * SIZE // 8, 3), np.uint8)
    whole = squares.repeat(8, 0).repeat(8, 1)
    ways = rng.integers(-2, 3, (steps, 2)).cumsum(0)
    places = np.clip(ways + SIZE // 2, 0, SIZE)
    return np.stack([whole[y : y + SIZE, x : x + SIZE] for y, x in places])


def train(source: Path, output: Path, steps: int, *more: str) -> list[str]:
    """Return the command of a training, with a checkpoint after half of its steps."""
    where = f"dataset.path={source}", f"output_dir={output}"
    length = f"train.steps={steps}", f"train.save_every={steps // 2}"
    return command("train", *TRAINING, *where, *length, *more)


def measure(source: Path, output: Path, frames: int, steps: int) -> dict[str, Any]:
    """Train on a folder; return memory, and what took how long."""
    rows = {f"pcm-data {x}": watched(command("data", x, str(source))) for x in ("info", "validate")}
    rows["pcm-train"] = watched(train(source, output, steps))
    rows["its policy, loaded"] = watched(["-c", LOADING, str(output / "policy")])
    first, second = sorted(note.stat().st_mtime for note in (output / "frames").glob("*.json"))
    log = logged(output)
    step, read = (sum(line[name] for line in log) / len(log) for name in ("step_s", "read_s"))
    return {
        "frames": frames,
        "video_bytes": sum(file.stat().st_size for file in source.rglob("*.mp4")),
        "decoded_bytes": sum(x.stat().st_size for x in (output / "frames").glob("*.frames")),
        "rows": rows,
        "decoded_a_second": frames / (second - first),
        "step_s": step,
        "read_s": read,
        "read_from_disk_s": from_disk(source, output / "frames", frames),
    }


def from_disk(source: Path, cache: Path, count: int, batches: int = 20) -> float:
    """Return the mean seconds of reading a batch's frames, none of which is in memory."""
    for file in cache.glob("*.frames"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    cameras = [open_frames(source, name, (SIZE, SIZE), cache) for name in CAMERAS]
    watch, rng = Stopwatch(), np.random.default_rng(0)
    for _ in range(batches):
        rows = rng.integers(1, count, (BATCH, 1)) - [1, 0]  # two steps are observed
        with watch:
            for frames in cameras:
                frames.take(rows)
    return watch.taken() / batches


def logged(output: Path) -> list[dict[str, Any]]:
    """Return the lines of the steps in a run's log."""
    log = output / "metrics.jsonl"
    text = log.read_text() if log.exists() else ""
    return [line for line in map(json.loads, text.splitlines()) if "loss" in line]


def interrupted(source: Path, output: Path, steps: int, wait: float = 2.0) -> dict[str, Any]:
    """Train with two kills; return what was lost by them, and a digest of the policy.

    Args:
        source: the folder.
        output: of the run.
        steps: of the training: it is killed after three quarters of them.
        wait: seconds for which the second camera has been decoded when the run is killed.
    """
    frames, again = output / "frames", train(source, output, steps, "resume=true")
    begun = later(lambda: len(list(frames.glob("*.json"))) == 1 and any(frames.glob(".*")), wait)
    watched(again, kill=begun)
    (whole,) = frames.glob("*.frames")
    stamp, left = whole.stat().st_mtime_ns, len(list(frames.glob(".*")))
    watched(again, kill=lambda: len(logged(output)) >= 3 * steps // 4)
    killed = len(logged(output))
    watched(again)
    return {
        "half_decoded_files": left,
        "of_them_at_the_end": len(list(frames.glob(".*"))),
        "whole_ones_decoded_again": int(whole.stat().st_mtime_ns != stamp),
        "checkpoint": steps // 2,
        "killed_after_step": killed,
        "digest": digest(output),
    }


def digest(output: Path) -> str:
    """Return a digest of the weights of a run's policy."""
    return hashlib.sha256((output / "policy/model.safetensors").read_bytes()).hexdigest()


def times(report: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of the table of times."""
    both = report["tenth"], report["whole"]
    rows: list[tuple[str, Callable[[Any], str]]] = [
        ("frames of each camera", lambda x: f"{x['frames']:,}"),
        ("videos, MB", lambda x: f"{x['video_bytes'] / 1e6:.0f}"),
        ("decoded frames, MB", lambda x: f"{x['decoded_bytes'] / 1e6:.0f}"),
        ("frames decoded in a second", lambda x: f"{x['decoded_a_second']:.0f}"),
        ("a training step, s", lambda x: f"{x['step_s']:.2f}"),
        ("drawing and reading its batch, s", lambda x: f"{x['read_s']:.4f}"),
        ("share of the step", lambda x: f"{x['read_s'] / x['step_s']:.2%}"),
        ("reading its frames from disk, s", lambda x: f"{x['read_from_disk_s']:.4f}"),
    ]
    return [[name, *map(cell, both)] for name, cell in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="a new folder, which is removed at the end")
    parser.add_argument("--frames", type=int, default=100_000, help="of each camera")
    parser.add_argument("--steps", type=int, default=20, help="training steps")
    asked = parser.parse_args(argv)
    asked.output.mkdir(parents=True)
    found: dict[str, Any] = {"steps": asked.steps, "batch": BATCH}
    try:
        for name, frames in (("tenth", asked.frames // 10), ("whole", asked.frames)):
            source, output = asked.output / f"{name}_lerobot", asked.output / f"{name}_run"
            make(source, frames // EPISODE)
            found[name] = measure(source, output, frames, asked.steps)
        found["digest"] = digest(output)
        shutil.rmtree(output)
        found["interrupted"] = interrupted(source, output, asked.steps)
    finally:
        shutil.rmtree(asked.output)
    found |= {"versions": versions("av", "pyarrow"), **made_by()}
    found |= {"hardware": hardware(torch.device("cpu"))}
    found["command"] = found["command"].replace(str(asked.output), "OUTPUT")
    write_text(FILE, to_json(found))
    print(table(HEAD, lines(found)), table(TIME, times(found)), sep="\n")


if __name__ == "__main__":
    main()
