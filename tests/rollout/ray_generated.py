"""Demonstrations generated in Ray's processes of which one is killed with ``kill -9``.

    python -m tests.rollout.ray_generated OUTPUT_DIR [EPISODES]

It runs in the environment that has Ray, and says when what was killed, and that the file is that of
one process.
"""

import argparse
import os
import signal
import threading
import time
from pathlib import Path

from pcm_policy.cli.compose import compose
from pcm_policy.cli.data import generate_main
from tests.rollout.ray_killed import descendants
from tests.rollout.test_rollouts import BRIEF


def kill(journal: Path) -> None:
    """Kill a worker when the first episodes are there."""
    while len(list(journal.glob("0*.npz"))) < 8:
        time.sleep(0.02)
    while not (workers := descendants("ray::make_episodes")):
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    there = len(list(journal.glob("0*.npz")))
    print(f"a worker was killed when {there} episodes were there", flush=True)


def make(folder: Path, episodes: int, *more: str) -> bytes:
    """Generate a file; returns its bytes."""
    path = folder / "demos.hdf5"
    words = [*BRIEF, f"episodes={episodes}", "failures=true", "device=cpu", f"path={path}"]
    generate_main(compose("data generate", [*words, *more]))
    return path.read_bytes()


def main(output: Path, episodes: int = 96) -> None:
    """Run it, with and without Ray, and compare."""
    journal = output / ".demos.hdf5.part"
    killer = threading.Thread(target=kill, args=(journal,), daemon=True)
    killer.start()
    found = make(output, episodes, "launcher=ray", "ray.episodes=4")
    killer.join(10)
    assert not killer.is_alive(), "everything was over before it could be killed"
    (output / "one").mkdir()
    assert found == make(output / "one", episodes)
    print(f"equal to one process: {len(found)} bytes of {episodes} episodes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("episodes", type=int, nargs="?", default=96)
    asked = parser.parse_args()
    main(asked.output, asked.episodes)
