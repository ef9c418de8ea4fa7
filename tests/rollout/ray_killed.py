"""An evaluation on two raylets of which one is killed, and a worker with ``kill -9``.

    python -m tests.rollout.ray_killed POLICY OUTPUT_DIR [EPISODES]

It runs in the environment that has Ray; what was killed when is printed, and that the result is
that of one process.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.rollout.test_shards import bits, run


def descendants(name: str) -> list[int]:
    """Return the processes of a name that this one, or one of its children, has started."""
    parents, names = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
            names[int(folder.name)] = (folder / "cmdline").read_bytes().decode()
        except (OSError, ValueError):
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = []
    for pid in (pid for pid, own in names.items() if own.startswith(name)):
        above = pid
        while above not in (0, os.getpid()):
            above = parents.get(above, 0)
        found += [pid] if above else []
    return found


def kill(cluster: Any, node: Any, output: Path) -> None:
    """Kill a worker when the first shards are there, and the second raylet somewhat later."""
    for wanted, what in ((2, "a worker"), (6, "the second raylet")):
        while len(list(output.glob("shards/*"))) < wanted:
            time.sleep(0.02)
        if what == "a worker":
            while not (workers := descendants("ray::make_shard")):
                time.sleep(0.01)
            os.kill(workers[0], signal.SIGKILL)
        else:
            cluster.remove_node(node, allow_graceful=False)
        there = len(list(output.glob("shards/*")))
        print(f"{what} was killed when {there} shards were there", flush=True)


def main(policy: Path, output: Path, episodes: int = 96) -> None:
    """Run it, with and without Ray, and compare."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    settings = (f"episodes={episodes}", "solve_batch=8", "launcher=ray", "ray.episodes=4")
    killer = threading.Thread(target=kill, args=(cluster, node, output), daemon=True)
    killer.start()
    begin = time.monotonic()
    found = run(policy, output, *settings, f"ray.address={cluster.address}")
    print(f"{episodes} episodes in {time.monotonic() - begin:.1f} s, with all that was killed")
    killer.join(10)
    assert not killer.is_alive(), "everything was over before it could be killed"
    cluster.shutdown()
    one = run(policy, output / "one", *settings[:2])
    assert bits(found) == bits(one)
    seeds = [episode["seed"] for episode in found["episodes"]]
    assert seeds == list(range(seeds[0], seeds[0] + episodes))
    print(f"equal to one process: {len(bits(one))} bytes of eval.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
