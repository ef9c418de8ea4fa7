"""A robot's folder beside the policy that it was made from: first action, memory, time, episodes.

    python -m benchmarks.robot [--policy released/pusht] [--starts 7] [--solves 5000]
    python -m benchmarks.robot --episodes 200      # goes on where it was interrupted

Starts take turns: today's ``predict`` in torch, and the folder in each engine, every one a process
of its own. Time runs from before the process starts until its first action; memory is the largest
resident set, ``VmHWM``: ``ru_maxrss`` would have what this process held when it started the other.
Episodes of Push-T have the same seeds and noise on both sides.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import RESULTS
from pcm_policy.draws import draw
from pcm_policy.export import export_robot
from pcm_policy.files import read_json, to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.robot import load
from pcm_policy.rollout.chunks import Predict
from pcm_policy.rollout.evaluate import evaluate
from pcm_policy.runtime.config import Name, RuntimeConfig
from pcm_policy.sampling.noise import episode_noise

ENV, SEED, BLOCK = "pcm_policy/PushTKeypoints-v0", 100_000, 10
CHILD = """
import json, re, sys, time
import numpy as np
kind, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "torch":
    import torch
    from pcm_policy import DiffusionPolicy
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(folder)
else:
    from pcm_policy.robot import load
    policy = load(folder, engine=kind)
obs = np.full((2, 20), 256.0)
policy.predict(obs).action
first, said = time.time(), open("/proc/self/status").read()
memory = int(re.search(r"VmHWM:\\s*(\\d+) kB", said)[1]) / 1024
spent = np.zeros(count)
for i in range(count):
    begin = time.perf_counter()
    policy.predict(obs)
    spent[i] = 1e3 * (time.perf_counter() - begin)
print(json.dumps({"first": first, "mib": memory, "ms": spent.tolist()}))
print("torch" in sys.modules, file=sys.stderr)
"""


def run_child(kind: str, folder: str, count: int) -> dict[str, Any]:
    """Run a process that acts once and then ``count`` times; ``s`` is until its first action."""
    begin = time.time()
    command = [sys.executable, "-c", CHILD, kind, folder, str(count)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.strip().endswith(str(kind == "torch"))
    found: dict[str, Any] = json.loads(done.stdout)
    return found | {"s": found["first"] - begin}


def starts(sides: Mapping[str, str], count: int) -> dict[str, dict[str, float]]:
    """Start every side ``count`` times, taking turns; returns medians and extremes."""
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in sides}
    for _ in range(count):
        for kind, folder in sides.items():
            found[kind].append(run_child(kind, folder, 0))
    return {
        kind: {
            "first_action_s": float(np.median([one["s"] for one in rows])),
            "least_s": min(one["s"] for one in rows),
            "most_s": max(one["s"] for one in rows),
            "peak_mib": float(np.median([one["mib"] for one in rows])),
            "most_mib": max(one["mib"] for one in rows),
        }
        for kind, rows in found.items()
    }


def solves(sides: Mapping[str, str], count: int) -> dict[str, dict[str, float]]:
    """Time ``count`` predictions of every folder one after the other, of torch a tenth as many."""
    found = {}
    for kind, folder in sides.items():
        spent = run_child(kind, folder, count // 10 if kind == "torch" else count)["ms"]
        found[kind] = {"solves": len(spent), **percentiles(spent)}
        found[kind]["p99/p50"] = found[kind]["p99"] / found[kind]["p50"]
    return found


def of_policy(policy: DiffusionPolicy, steps: int, mode: Name) -> Predict:
    """Return the policy's side of the episodes, in a mode of execution."""
    policy.use(RuntimeConfig(mode))

    def predict(obs: Any, seeds: Any, ticks: Any) -> Any:
        noise = episode_noise(seeds.tolist(), ticks.tolist(), policy.config.chunk_shape, steps)
        return policy.predict(obs, noise=noise).action

    return predict


def of_robot(folder: Path, shape: tuple[int, int], steps: int) -> Predict:
    """Return the folder's side of the episodes."""
    robot = load(folder)

    def predict(obs: Any, seeds: Any, ticks: Any) -> Any:
        noise = draw(seeds.tolist(), ticks.tolist(), shape, steps)
        return robot.predict(obs, noise=noise).action

    return predict


def episodes(sides: Mapping[str, Callable[[], Predict]], count: int, path: Path) -> dict[str, Any]:
    """Run episodes of every side in blocks, each of which is written; returns scores by side."""
    found: dict[str, list[float]] = read_json(path) if path.exists() else {k: [] for k in sides}
    for kind, make in sides.items():
        predict = make()
        while len(found[kind]) < count:
            begin = len(found[kind])
            some = min(BLOCK, count - begin)
            result = evaluate(
                predict,
                ENV,
                episodes=some,
                seed=SEED + begin,
                num_envs=1,
                solve_batch=1,
            )
            found[kind] += [one.score for one in result.episodes]
            write_text(path, to_json(found))
    scores = {kind: np.array(one[:count]) for kind, one in found.items()}
    off = {kind: np.abs(one - scores["robot"]) for kind, one in scores.items() if kind != "robot"}
    return {
        "episodes": count,
        "seed": SEED,
        "mean_score": {kind: float(one.mean()) for kind, one in scores.items()},
        "largest_difference": {kind: float(one.max()) for kind, one in off.items()},
        "apart_by_more_than_1e-3": {kind: int((one > 1e-3).sum()) for kind, one in off.items()},
    }


def main() -> None:
    """Export, start, time, roll out, and write ``robot_NAME.json``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--starts", type=int, default=7)
    parser.add_argument("--solves", type=int, default=5000)
    parser.add_argument("--episodes", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "robot")
    parser.add_argument("--folder", type=Path, help="an exported folder; None exports one")
    options = parser.parse_args()
    policy = DiffusionPolicy.from_pretrained(options.policy)
    name = options.policy.replace("/", "_")
    folder = options.folder or options.output / f"{name}_folder"
    if not folder.exists():
        export_robot(policy, policy.default_solver(), folder)
    path = options.output / f"{name}.json"
    report: dict[str, Any] = read_json(path) if path.exists() else {}
    report |= {"policy": options.policy, "solver": policy.default_solver().label}
    report |= conditions(policy)
    size = sum(one.stat().st_size for one in folder.iterdir())
    report["folder_mib"] = size / 2**20
    sides = {"torch": options.policy, "onnxruntime": str(folder), "openvino": str(folder)}
    if options.starts:
        report["starts"] = starts(sides, options.starts)
        print(table(["start", "s", "MiB"], _cells(report["starts"], "first_action_s", "peak_mib")))
    if options.solves:
        report["solves"] = solves(sides, options.solves)
        print(table(["solve", "p50", "p99"], _cells(report["solves"], "p50", "p99")))
    if options.episodes:
        sampler = policy.sampler(policy.default_solver().sampler)
        steps, shape = sampler.noise_steps, policy.config.chunk_shape
        rolled: dict[str, Callable[[], Predict]] = {
            "policy": lambda: of_policy(policy, steps, "eager"),
            "policy in ONNX Runtime": lambda: of_policy(policy, steps, "onnx"),
            "robot": lambda: of_robot(folder, shape, steps),
        }
        kept = options.output / f"{name}_scores.json"
        report["pusht"] = episodes(rolled, options.episodes, kept)
        print(to_json(report["pusht"]))
    write_text(path, to_json(report))
    print(path)


def _cells(rows: Mapping[str, Mapping[str, float]], *names: str) -> list[list[str]]:
    return [[kind, *(f"{one[name]:.2f}" for name in names)] for kind, one in rows.items()]


if __name__ == "__main__":
    main()
