"""Time against success in every engine: the rows of a study timed again, all taking turns.

    python -m benchmarks.study.engines [--study benchmarks/results/study/pusht] [--calls 40]

What a row scores is the study's (``python -m benchmarks.study.pcm``): every engine computes the
chunk of eager execution up to rounding. Timed is a prediction at batch 1 on one thread, from raw
observations to the normalised chunk. Writes ``engines.json`` and ``engines.png`` into the study's
folder.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import RESULTS
from benchmarks.compare.sides import Side, ours
from benchmarks.compare.timing import batches, timed_turns
from benchmarks.packages import todays
from benchmarks.study.pareto import front
from benchmarks.study.show import COLOURS
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.pictures import new_figure, save_figure
from pcm_policy.measure.statistics import percentiles
from pcm_policy.measure.tables import table
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.auto import versions
from pcm_policy.runtime.config import Name, RuntimeConfig
from pcm_policy.runtime.execute import Runtime

ENGINES: tuple[Name, ...] = ("eager", "onnx", "openvino")
HEAD = ["", "success", *(f"{name}, ms" for name in ENGINES)]


def sides(policy: DiffusionPolicy, rows: Sequence[Mapping[str, Any]]) -> list[Side]:
    """Return what is timed: every row in every engine, a row's engines one after another."""
    found = []
    for row in tqdm(rows, desc="preparing", disable=None):
        solver = policy.solver(todays(row["solver"]))
        for engine in ENGINES:
            runtime = None if engine == "eager" else Runtime(policy, RuntimeConfig(engine))
            found.append(ours(policy, solver, runtime))
    return found


def measure(policy: DiffusionPolicy, study: Mapping[str, Any], calls: int) -> list[dict[str, Any]]:
    """Return the study's rows with their times in every engine.

    Args:
        policy: that the study is of.
        study: what its ``study.json`` holds.
        calls: of every row in every engine.
    """
    assert policy.held_out is not None
    obs = batches(policy.held_out, 1)
    every = sides(policy, study["rows"])
    timed = timed_turns(every, obs, calls, float("inf"), least=calls)
    spent = [percentiles([ms for ms, *_ in side]) for side in timed]
    each = [spent[i : i + len(ENGINES)] for i in range(0, len(spent), len(ENGINES))]
    kept = ("name", "family", "score", "success")
    return [
        {k: row[k] for k in kept} | {"ms": dict(zip(ENGINES, times, strict=True))}
        for row, times in zip(study["rows"], each, strict=True)
    ]


def picture(report: Mapping[str, Any], file: Path) -> None:
    """Draw success against time, a panel for every engine, and mark which rows nobody beats."""
    from matplotlib import ticker

    rows, figure = report["rows"], new_figure(13, 4.5)
    panels = figure.subplots(1, len(ENGINES), sharex=True, sharey=True)
    for axis, engine in zip(panels, ENGINES, strict=True):
        points = [(row["ms"][engine]["p50"], -row["success"]["mean"]) for row in rows]
        for row, (ms, loss) in zip(rows, points, strict=True):
            axis.plot(ms, -loss, "o", ms=5, color=COLOURS.get(row["family"], "k"))
            axis.annotate(
                row["name"], (ms, -loss), fontsize=6, xytext=(3, 3), textcoords="offset points"
            )
        best = [points[i] for i in front(points)]
        axis.step([ms for ms, _ in best], [-loss for _, loss in best], "k-", lw=0.8, where="post")
        axis.set_title(engine, fontsize=9)
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel("time per chunk, p50 [ms]")
    panels[0].set_ylabel(f"success, {report['episodes']} episodes")
    machine = report["hardware"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} thread, batch 1", fontsize=9)
    save_figure(figure, file)


def cells(row: Mapping[str, Any]) -> list[str]:
    """Return a line of the table."""
    low, high = row["success"]["ci95"]
    success = f"{row['success']['mean']:.3f} [{low:.3f}, {high:.3f}]"
    return [row["name"], success, *(f"{row['ms'][name]['p50']:.2f}" for name in ENGINES)]


def main(argv: Sequence[str] | None = None) -> None:
    """Time, print, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--study", type=Path, help="folder of benchmarks.study.pcm")
    parser.add_argument("--calls", type=int, default=40)
    options = parser.parse_args(argv)
    folder = options.study or RESULTS / "study" / Path(options.policy).name
    study = json.loads((folder / "study.json").read_text())
    torch.set_num_threads(1)
    policy = DiffusionPolicy.from_pretrained(options.policy)
    rows = measure(policy, study, options.calls)
    report = {**conditions(policy), "engines": versions(), "batch": 1, "rows": rows}
    report |= {name: study[name] for name in ("episodes", "seed")}
    write_text(folder / "engines.json", to_json(report))
    picture(report, folder / "engines.png")
    print(table(HEAD, list(map(cells, rows))))


if __name__ == "__main__":
    main()
