"""A multi_task_dit of LeRobot beside the same policy with a distilled head.

    python -m benchmarks.lerobot.heads DIR --lerobot PYTHON --output FILE

PYTHON has ``lerobot[multi_task_dit]==0.6.1``. It trains a small policy on a toy task
(``small.py``) and writes it as LeRobot does. It is imported and a head is distilled for it by
the commands that anybody would type; then LeRobot's Python times a whole call of both, from an
observation to a chunk, taking turns, eager both, one thread. What ``DIR`` has already is left out.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lerobot import small
from benchmarks.lerobot.heads_there import CAMERA, INSTRUCTION, NAMES, STATE
from benchmarks.lerobot.outside import there
from benchmarks.lerobot.outside_page import TIMES_HEAD, times
from benchmarks.routes.route import execute
from pcm_policy.files import to_json, write_text

HEAD = ["LeRobot's loop", "in its place", "largest error", "RMS error"]
HEAD += TIMES_HEAD
EPISODES, LENGTH = 250, 20
SAMPLER = ("sampler.name=flow_adams", "sampler.steps=10")
"""The chunk of LeRobot's hundred steps, in ten: a head for ten states is small and fast."""
DISTIL = (*SAMPLER, "head.options.nodes=3", "train.steps=2000", "train.batch=64")
DISTIL += ("distill.guess_batch=128", "distill.pool=2000")


def cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table."""
    errors = [f"{row['largest']:.1e}", f"{row['rms']:.1e}"]
    return [row["policy"], row["solver"], *errors, *times(row)]


def write_observations(file: Path) -> None:
    """Write drawn observations, as the toy task has them, and actions that nothing is learnt of."""
    drawn = np.random.default_rng(0)
    count = EPISODES * LENGTH
    arrays = {
        STATE: drawn.uniform(-1, 1, (count, small.S)).astype(np.float32),
        CAMERA: drawn.integers(0, 256, (count, small.SIDE, small.SIDE, 3), dtype=np.uint8),
        "action": drawn.uniform(-1, 1, (count, small.A)).astype(np.float32),
        "episode_ends": np.arange(1, EPISODES + 1) * LENGTH,
    }
    np.savez(file, **arrays)  # type: ignore[arg-type]


def commands(folder: Path, name: str) -> list[tuple[Path, list[str]]]:
    """Return what makes a policy with a head of LeRobot's, and the folder that each step makes."""
    ours, pcm = folder / f"{name}_ours", folder / f"{name}_pcm"
    imported = [str(folder / name), f"output_dir={ours}", f"instruction='{INSTRUCTION}'"]
    distil = [f"policy={ours}/policy", f"dataset.path={folder}/seen.npz", f"output_dir={pcm}"]
    return [
        (ours / "policy", ["import", *imported]),
        (pcm / "policy", ["distill", *distil, *DISTIL, "threads=1"]),
    ]


def main() -> None:
    """Train, import, distil, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lerobot", required=True, help="LeRobot's Python")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    folder = given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not all((folder / name).exists() for name in NAMES):
        there(given.lerobot, "benchmarks.lerobot.heads_there", ["make", str(folder)])
    if not (folder / "seen.npz").exists():
        write_observations(folder / "seen.npz")
    for name in NAMES:
        for made, words in commands(folder, name):
            if not made.exists():
                execute(words)
    there(given.lerobot, "benchmarks.lerobot.heads_there", ["measure", str(folder)])
    found = json.loads((folder / "heads.json").read_text())
    write_text(given.output, to_json(found | {"distil": " ".join(DISTIL)}))


if __name__ == "__main__":
    main()
