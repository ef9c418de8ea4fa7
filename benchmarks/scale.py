"""What an evaluation costs, and what that says of 10, 100 and 1,000 processes (docs/scale.md).

    python -m benchmarks.scale [--measure] [--policy POLICY] [--repeats 3]

``--measure`` runs ``pcm-eval`` in shards: few episodes, many, and many in two processes at once, in
turns; and an evaluation in one process and in two, for the simulation to be compared with. Without
it the costs of the result file are simulated again. Costs are CPU seconds of one thread, which a
busy machine hardly changes; wall times are kept beside them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.scale_model import Cost, Trouble, half_efficient, predicted, simulate
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.rollout.merging import merge, read_shards
from pcm_policy.rollout.shards import Shard, ShardFile, read_shard
from pcm_policy.runtime.timing import take_turns

FILE = Path(__file__).parent / "results/scale/scale.json"
FEW, MANY, CHECKED = 4, 84, 120
TROUBLES = {
    "calm": Trouble(),
    "trouble": Trouble(slow_share=0.05, slow_factor=2.0, failures_per_hour=0.1, restart_s=60.0),
}
TASK = 8
EPISODES, PROCESSES, SEEDS = (600, 10_000), (1, 2, 10, 100, 1000), 20
CHECK = ["processes", "measured", "formula", "simulated", "off"]
HEAD = ["episodes", "processes", "formula", "shards", "shards, trouble", "tasks, trouble", "busy"]


class Runs:
    """Runs of ``pcm-eval`` and what each took.

    Args:
        policy: whom it evaluates.
        folder: gets the shards.
    """

    def __init__(self, policy: str, folder: Path) -> None:
        self.policy, self.folder, self.count = policy, folder, 0
        self.cpu_s: dict[str, list[float]] = {}

    def __call__(self, name: str, episodes: int, together: int) -> None:
        """Run so many episodes in each of some processes at once."""
        self.count += 1
        words = [f"policy={self.policy}", "task=pusht", "solve_batch=4", "latency_calls=0"]
        words += [f"episodes={2 * episodes}", "threads=1", "device=cpu", "shards=2"]
        program = [sys.executable, "-m", "pcm_policy.cli", "eval", *words]
        children = [
            subprocess.Popen(
                [*program, f"shard={i}", f"output_dir={self.folder / f'{name}{self.count}'}"],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for i in range(together)
        ]
        used = 0.0
        for child in children:
            _, status, usage = os.wait4(child.pid, 0)
            if status:
                raise SystemExit(f"{' '.join(program)} failed")
            used += (usage.ru_utime + usage.ru_stime) / together
        self.cpu_s.setdefault(name, []).append(used)

    def shard(self) -> ShardFile:
        """Return a shard of many episodes."""
        return read_shard(Shard(0, 2).file(next(self.folder.glob("many*"))))


def measured(policy: str, repeats: int) -> dict[str, Any]:
    """Measure the costs of the parts; the sides take turns."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(policy, Path(folder))
        sides = [
            lambda _: runs("few", FEW, 1),
            lambda _: runs("many", MANY, 1),
            lambda _: runs("two", MANY, 2),
        ]
        sides += [lambda _: runs("one", CHECKED, 1), lambda _: runs("pair", CHECKED // 2, 2)]
        walls = [[ms / 1e3 for ms in side] for side in take_turns(sides, repeats, warmup=0)]
        shard = runs.shard()
        merging = merging_costs(shard, Path(folder) / "merging")
    steps = [record.outcome.steps for record in shard.records]
    spread = float(np.std(steps) / np.mean(steps))
    found = {}
    for name, few, many in (
        ("cpu", runs.cpu_s["few"], runs.cpu_s["many"]),
        ("wall", walls[0], walls[1]),
    ):
        each = median((b - a) / (MANY - FEW) for a, b in zip(few, many, strict=True))
        start = median(few) - FEW * each
        found[name] = asdict(Cost(start, each, spread, **merging))
    return {
        "policy": policy,
        "repeats": repeats,
        "episodes": {"few": FEW, "many": MANY},
        "wall_s": dict(zip(("few", "many", "two", "one", "pair"), walls, strict=True)),
        "cpu_s": runs.cpu_s,
        "two_over_one": median(2 * b / c for b, c in zip(walls[1], walls[2], strict=True)),
        "load_before_and_after": [load, os.getloadavg()[0]],
        "cost": found,
        **conditions(DiffusionPolicy.from_pretrained(policy)),
    }


def merging_costs(shard: ShardFile, folder: Path) -> dict[str, float]:
    """Time reading and merging of copies of a shard's records, and writing one shard."""
    sizes = {"small": (10, 200), "long": (10, 2000), "wide": (500, 2000)}
    for name, (shards, episodes) in sizes.items():
        for index in range(shards):
            part = Shard(index, shards)
            records = [
                replace(shard.records[i % len(shard.records)], index=i)
                for i in part.numbers(episodes)
            ]
            own = replace(shard, shard=part, episodes=episodes, records=records)
            write_text(part.file(folder / name), to_json(own.to_json()))

    def written(number: int) -> None:
        write_text(folder / "again" / f"{number}.json", to_json(shard.to_json()))

    def merged(name: str) -> float:
        begin = time.process_time()
        merge(read_shards(folder / name)).report("")
        return (time.process_time() - begin) * 1e3

    sides = [lambda _, at=name: merged(at) for name in sizes]
    times = [median(side) / 1e3 for side in take_turns([*sides, written], 5, warmup=1)]
    small, long, wide, write = times
    each = (long - small) / 1800
    besides = (wide - long) / 490
    return {
        "merge_s": max(0.0, small - 200 * each - 10 * besides),
        "merge_episode_s": each,
        "merge_shard_s": besides,
        "write_s": write,
    }


def grid(cost: Cost) -> list[dict[str, Any]]:
    """Predict and simulate every number of episodes and processes."""
    rows = []
    for episodes in EPISODES:
        for processes in PROCESSES:
            row: dict[str, Any] = {"episodes": episodes, "processes": processes}
            row["formula_s"] = predicted(cost, episodes, processes)
            for name, trouble in TROUBLES.items():
                for kind, task in (("shards", None), ("tasks", TASK)):
                    found = [
                        simulate(cost, trouble, episodes, processes, np.random.default_rng(s), task)
                        for s in range(SEEDS)
                    ]
                    walls = [one.wall_s for one in found]
                    row[f"{kind}_{name}"] = {
                        "median_s": median(walls),
                        "p95_s": float(np.percentile(walls, 95)),
                        "failures": float(np.mean([one.failures for one in found])),
                        "repeated": float(np.mean([one.repeated for one in found])),
                    }
            best = row["tasks_trouble"]["median_s"]
            row["busy"] = episodes * cost.episode_s / (processes * best)
            rows.append(row)
    return rows


def checks(costs: dict[str, Any]) -> list[dict[str, float]]:
    """Compare the formula and the simulation with an evaluation that was run, without merging."""
    cost = replace(Cost(**costs["cost"]["cpu"]), merge_episode_s=0.0, merge_shard_s=0.0)
    rows = []
    for processes, name in ((1, "one"), (2, "pair")):
        drawn = [np.random.default_rng(seed) for seed in range(SEEDS)]
        walls = [simulate(cost, Trouble(), CHECKED, processes, rng).wall_s for rng in drawn]
        wall, found = median(costs["wall_s"][name]), median(walls)
        row = {"processes": processes, "wall_s": wall, "simulated_s": found}
        row |= {"formula_s": predicted(cost, CHECKED, processes), "off": found / wall - 1}
        rows.append(row)
    return rows


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row's cells for the table."""
    times = [row["formula_s"]]
    times += [row[name]["median_s"] for name in ("shards_calm", "shards_trouble", "tasks_trouble")]
    return [
        f"{row['episodes']:,}",
        f"{row['processes']:,}",
        *(said(seconds) for seconds in times),
        f"{row['busy']:.0%}",
    ]


def checked_cells(row: dict[str, Any]) -> list[str]:
    """Return a line of the table that compares the formula with what was measured."""
    names = ("wall_s", "formula_s", "simulated_s")
    return [str(row["processes"]), *(said(row[name]) for name in names), f"{row['off']:+.1%}"]


def said(seconds: float) -> str:
    """Return a time in the unit that fits."""
    for unit, size in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--policy", default="released/pusht_mlp")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args(argv)
    if asked.measure:
        costs = measured(asked.policy, asked.repeats)
    else:
        costs = json.loads(FILE.read_text())["measured"]
    cost = Cost(**costs["cost"]["cpu"])
    rows, checked = grid(cost), checks(costs)
    report = {
        "measured": costs,
        "troubles": {name: asdict(trouble) for name, trouble in TROUBLES.items()},
        "task": TASK,
        "seeds": SEEDS,
        "checked": checked,
        "half_efficient": {str(count): half_efficient(cost, count) for count in EPISODES},
        "rows": rows,
    }
    write_text(FILE, to_json(report))
    lines, compared = list(map(cells, rows)), list(map(checked_cells, checked))
    print(table(HEAD, lines), table(CHECK, compared), sep="\n\n")


if __name__ == "__main__":
    main()
