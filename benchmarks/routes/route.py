"""From scripted demonstrations to success in simulation, by the commands that anybody would type.

    python -m benchmarks.routes.route lift can square --output DIR
    python -m benchmarks.routes.route can --output DIR --ray HOST:6379   # episodes in a Ray cluster

For each route: ``pcm-data generate``, ``pcm-train``, rollouts of the base, ``pcm-distill`` on both,
then ``pcm-eval`` for the base sampler and for 1, 2 and 3 PCM rounds, over the same seeds; and
robomimic's own behaviour cloning on the same file, with as many steps
(``benchmarks.routes.robomimic_bc``). Every command is printed and timed; ``DIR/NAME.json`` has
commands, seconds and results, and a command that it has is not run again, so that a route that was
cut off goes on. Routes of one task share demonstrations.
``adroit_door`` plays people's demonstrations again in place of generating some: put
``adroit_door_human.hdf5`` into ``DIR`` before.
Needs the simulators: pip install '.[robomimic,metaworld,adroit,aloha]'.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.routes import plan
from benchmarks.routes.page import Report, rows
from benchmarks.routes.plan import MODULES, commands, shell
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.tables import table


def execute(words: Sequence[str]) -> None:
    """Run a command in a process of its own.

    Raises:
        PcmError: it failed.
    """
    module = words if words[0] in MODULES else ["pcm_policy.cli", *words]
    done = subprocess.run([sys.executable, "-m", *module], check=False)
    if done.returncode:
        raise PcmError(f"{shell(words)} ended with code {done.returncode}")


def resumed(words: Sequence[str]) -> bool:
    """Say whether an earlier run of a training was cut off, and left checkpoints to go on from."""
    outputs = [Path(word.partition("=")[2]) for word in words if word.startswith("output_dir=")]
    trains = words[0] in ("train", "distill")
    return trains and any((folder / "checkpoints").exists() for folder in outputs)


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
        elif resumed(words):  # how long all of it took is not known
            run_command([*words, "resume=true"])
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("routes", nargs="+", choices=list(plan.ROUTES))
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
