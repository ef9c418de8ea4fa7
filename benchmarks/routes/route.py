"""From scripted demonstrations to success in simulation, by the commands that anybody would type.

    python -m benchmarks.routes.route lift can square --output DIR
    python -m benchmarks.routes.route can --output DIR --ray HOST:6379   # episodes in a Ray cluster

For each route: ``pcm-data generate``, ``pcm-train``, ``pcm-distill``, then ``pcm-eval`` for the
base sampler and for 1, 2 and 3 PCM rounds, over the same 50 seeds; and robomimic's own behaviour
cloning on the same file, with as many steps (``benchmarks.routes.robomimic_bc``). Every command is
printed and timed; ``DIR/NAME.json`` has commands, seconds and results, and a command that it has is
not run again, so that a route that was cut off goes on. Routes of one task share demonstrations.
Needs the simulators: pip install '.[robomimic,metaworld]'.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.tables import table

SOLVERS: Mapping[str, tuple[str, ...]] = {
    "DDIM-16, the base": ("solver=ddim",),
    "PCM, 1 round": ("solver=pcm", "solver.rounds=1"),
    "PCM, 2 rounds": ("solver=pcm", "solver.rounds=2"),
    "PCM, 3 rounds": ("solver=pcm", "solver.rounds=3"),
}
BASELINE = "robomimic's own BC"
BC = "benchmarks.routes.robomimic_bc"
TIMED = ("generate", "train", "distil")
Report = dict[str, Any]


@dataclass(frozen=True)
class Route:
    """What differs from task to task.

    Attributes:
        task: its name.
        steps: of training.
        max_steps: of an episode in evaluation; None for the environment's own limit.
        train: further settings of training.
        generate: further settings of the demonstrations.
        episodes: demonstrations.
        distil: steps of distillation.
        evaluated: episodes of evaluation.
        keys: what robomimic's own policy observes; empty for none.
    """

    task: str
    steps: int
    max_steps: int | None
    train: tuple[str, ...] = ("train.batch=128", "train.warmup=200", "train.ema=0.999")
    generate: tuple[str, ...] = ("workers=2",)
    episodes: int = 200
    distil: int = 2500
    evaluated: int = 50
    keys: str = "object,robot0_eef_pos,robot0_eef_quat,robot0_gripper_qpos"


_SHORT = ("train.batch=128", "train.warmup=200", "train.ema=0.995")
_TRANSFORMER = ("network=transformer", "train.lr=0.0003", *_SHORT)
_META = ("train.ema=0.999",)
ROUTES: Mapping[str, Route] = {
    "lift": Route("lift", 4000, 100, _SHORT),
    "lift-transformer": Route("lift", 4000, 100, _TRANSFORMER, keys=""),
    "can": Route("can", 24000, 250),
    "square": Route("square", 24000, 300),
    **{
        name: Route(
            f"metaworld/{name}", 6000, None, _META, ("max_steps=300",), keys="proprio,object,goal"
        )
        for name in ("pick-place", "peg-insert-side")
    },
}


def commands(name: str, folder: Path, ray: str | None = None) -> dict[str, list[str]]:
    """Return the commands of a route, in their order, by what they are for.

    Args:
        name: of the route.
        folder: gets what they write.
        ray: address of a Ray cluster that runs the episodes, ``local`` for this machine's cores.
    """
    route = ROUTES[name]
    spread = [] if ray is None else ["launcher=ray"]
    spread += [] if ray in (None, "local") else [f"ray.address={ray}"]
    task, demos = f"task={route.task}", folder / f"{route.task.split('/')[-1]}.hdf5"
    base, pcm = folder / name, folder / f"{name}_pcm"
    data, threads = f"dataset.path={demos}", "threads=1"
    here = [word for word in route.generate if ray is None or not word.startswith("workers=")]
    generate = ["generate", task, f"episodes={route.episodes}", *here, *spread]
    train = [f"train.steps={route.steps}", *route.train, threads]
    distil = [f"policy={base}/policy", data, f"output_dir={pcm}"]
    distil += [f"train.steps={route.distil}", threads]
    found = {
        "generate": ["data", *generate, f"output={demos}"],
        "train": ["train", task, data, f"output_dir={base}", *train],
        "distil": ["distill", task, *distil],
    }
    limit = [] if route.max_steps is None else [f"max_steps={route.max_steps}"]
    limit += [f"episodes={route.evaluated}", "num_envs=5", "solve_batch=5", "seed=100000", threads]
    limit += [*spread, "overwrite=true"]  # of a run that was interrupted
    for number, (solver, words) in enumerate(SOLVERS.items()):
        chosen = [f"policy={pcm}/policy", *words, *limit]
        found[solver] = ["eval", task, *chosen, f"output_dir={folder}/{name}_eval{number}"]
    if route.keys:
        bc, epochs = folder / f"{name}_bc", str(max(1, route.steps // 100))
        found["train BC"] = [BC, str(demos), str(bc), "--keys", route.keys, "--epochs", epochs]
        chosen = [f"policy=robomimic:{bc}/model.pth", *limit]
        found[BASELINE] = ["eval", task, *chosen, f"output_dir={folder}/{name}_eval_bc"]
    return found


def shell(words: Sequence[str]) -> str:
    """Return a command as it is typed."""
    first = ["python", "-m", BC] if words[0] == BC else [f"pcm-{words[0]}"]
    return shlex.join([*first, *words[1:]])


def execute(words: Sequence[str]) -> None:
    """Run a command in a process of its own.

    Raises:
        PcmError: it failed.
    """
    module = words if words[0] == BC else ["pcm_policy.cli", *words]
    done = subprocess.run([sys.executable, "-m", *module], check=False)
    if done.returncode:
        raise PcmError(f"{shell(words)} ended with code {done.returncode}")


def run(
    name: str,
    folder: Path,
    run_command: Callable[[Sequence[str]], None] = execute,
    ray: str | None = None,
) -> Report:
    """Run what is missing of a route; returns its report, which ``NAME.json`` holds as well."""
    file = folder / f"{name}.json"
    report: Report = json.loads(file.read_text()) if file.exists() else {"name": name, "steps": {}}
    for step, words in commands(name, folder, ray).items():
        if step in report["steps"]:
            continue
        entry: Report = {"command": shell(words)}
        print(f"\n$ {entry['command']}", flush=True)
        output = next((Path(w.partition("=")[2]) for w in words if w.startswith("output=")), None)
        start = time.monotonic()
        if output is not None and output.exists():
            entry["shared"] = True
        else:
            run_command(words)
            entry["seconds"] = round(time.monotonic() - start, 1)
        if words[0] == "eval":
            entry["result"] = json.loads(
                (Path(words[-1].partition("=")[2]) / "eval.json").read_text()
            )
        report["steps"][step] = entry
        write_text(file, to_json(report))
    return report


def rows(reports: Sequence[Report]) -> list[list[str]]:
    """Return the table: a column for every route, a row for every time and every solver."""
    found = []
    steps = [name for name in TIMED if any(name in r["steps"] for r in reports)]
    solvers = [name for name in (*SOLVERS, BASELINE) if any(name in r["steps"] for r in reports)]
    for step in steps:
        times = [r["steps"].get(step, {}).get("seconds") for r in reports]
        shown = ["(shared)" if t is None else f"{t / 60:.1f} min" for t in times]
        found.append([step, *shown])
    for solver in solvers:
        cells = []
        for report in reports:
            if solver not in report["steps"]:
                cells.append("")
                continue
            result = report["steps"][solver]["result"]
            low, high = result["success"]["ci95"]
            cells.append(f"{result['success']['rate']:.2f} [{low:.2f}, {high:.2f}]")
        found.append([solver, *cells])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("routes", nargs="+", choices=list(ROUTES))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--ray", help="address of a Ray cluster for all episodes, or local")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    reports = [run(name, args.output, ray=args.ray) for name in args.routes]
    print(table(["", *args.routes], rows(reports)))


if __name__ == "__main__":
    try:
        main()
    except PcmError as error:
        sys.exit(f"route.py: error: {error}")
