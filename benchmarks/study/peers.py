"""Other people's few-call samplers beside a study that is there: rows without times.

    python -m benchmarks.study.peers --output DIR [--policy released/pusht] [--only "EPD 2" ...]

Fits, searches and plays rows as ``benchmarks.study.pcm`` does, with its options, in a folder DIR
of its kind: episodes and fits are kept there, and that command, which also takes the times, goes on
from them. Base and PCM are not played again: ``--longer`` is the file of
``benchmarks.study.longer`` whose first episodes are the same ones, and differences of success to
its rows are paired. Writes ``DIR/peers.json``; rows that it has already stay there.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.packages import todays
from benchmarks.pasted import block
from benchmarks.peers.rows import PEERS
from benchmarks.study.longer import played
from benchmarks.study.pcm import SEED, Study, add_rows
from benchmarks.study.rows import TRAINED, Played, Row, calls, difference
from benchmarks.study.search import TUNING_SEED
from benchmarks.study.show import gap
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import solved
from pcm_policy.measure.statistics import bootstrap_mean_interval, wilson_interval
from pcm_policy.measure.tables import table
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.solvers.registry import flat

LONGER = Path("benchmarks/results/study/pusht/longer.json")
HEAD = ["", "calls", "episodes", "RMSE", "p95", "score [95 %]", "success [95 %]"]
BLOCK = 600
"""Episodes that are kept together; a command that was cut off goes on after the last of them."""


def outcomes(played: Played, others: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return score and success with intervals, and paired differences of success.

    Args:
        played: the row's episodes.
        others: successes of other rows on the same episodes, by name; they may have more.
    """
    count = len(played.scores)
    good = int(sum(played.successes))
    score = {"mean": float(np.mean(played.scores))}
    score["ci95"] = list(bootstrap_mean_interval(played.scores))  # type: ignore[assignment]
    success = {"mean": good / count, "ci95": list(wilson_interval(good, count))}
    gaps = {
        name: difference(played.successes, theirs[:count])
        for name, theirs in others.items()
        if len(theirs) >= count
    }
    return {
        "score": score,
        "success": success,
        "success - other": gaps,
        "scores": [round(x, 6) for x in played.scores],
        "successes": "".join(str(int(x)) for x in played.successes),
    }


def successes(file: Path, weights: str) -> dict[str, list[float]]:
    """Return the successes that a file of ``benchmarks.study.longer`` has, by row.

    Args:
        file: the file.
        weights: the base network's that the rows must have.

    Raises:
        PcmError: it has other episodes, or another base.
    """
    found = json.loads(file.read_text())
    if found["seed"] != SEED or found["weights"]["network"] != weights:
        raise PcmError(f"{file}: other episodes, or other weights, than these rows have")
    return {row["name"]: [float(x) for x in row["successes"]] for row in found["rows"]}


def text(report: Mapping[str, Any]) -> str:
    """Return the table for a document, the rows in the order of their families."""
    order = [*PEERS, *TRAINED]
    rows = sorted(report["rows"], key=lambda row: (order.index(row["family"]), row["rounds"]))
    heads = [f"success - {name} [95 %]" for name in rows[0]["success - other"]]
    return block([*HEAD, *heads], [cells(row) for row in rows])


def cells(row: Mapping[str, Any]) -> list[str]:
    """Format a row."""
    shown = [row["name"], f"{row['rounds']:g}", f"{len(row['scores']):,}"]
    shown += [f"{row['rmse']:.4f}", f"{row['rmse_p95']:.4f}"]
    for name in ("score", "success"):
        low, high = row[name]["ci95"]
        shown.append(f"{row[name]['mean']:.3f} [{low:.3f}, {high:.3f}]")
    return [*shown, *(gap(one) for one in row["success - other"].values())]


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--longer", type=Path, default=LONGER)
    parser.add_argument("--again", action="store_true", help="fit and search nothing")
    add_rows(parser)
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    if options.only is None:
        rounds = options.rounds
        trained = [f for f in TRAINED if getattr(options, f.replace("-", "_"))]
        options.only = [f"{family} {r}" for family in PEERS for r in PEERS[family]]
        options.only += [f"{family} {r}" for family in trained for r in calls(family, rounds)]
    study = Study(options)
    weights = fingerprint(study.policy.network)
    others = successes(options.longer, weights) if options.longer.exists() else {}
    file = options.output / "peers.json"
    before = json.loads(file.read_text()) if file.exists() else {"rows": [], "tuning": {}}
    rows, chosen = (fitted_before(study, before), {}) if options.again else study.rows()
    wanted = solved(study.policy, study.base, study.obs).sample
    entries = [entry(study, row, wanted, others) for row in rows if row.family != "base"]
    names = {one["name"] for one in entries}
    entries = [one for one in before["rows"] if one["name"] not in names] + entries
    tuning = before["tuning"].get("schedules", {}) | chosen
    report = {
        "policy": weights,
        "base": study.exact.label,
        "episodes": options.episodes,
        "seed": SEED,
        "observations": len(study.obs),
        "rows": entries,
        "tuning": {
            "seed": TUNING_SEED,
            "episodes": options.tuning_episodes,
            "observations": len(study.visited),
            "fit_steps": options.fit_steps,
            "schedules": tuning,
        },
        **conditions(study.policy),
        "command": "python -m benchmarks.study.peers --output DIR",
    }
    write_text(file, to_json(report))
    heads = [f"success - {name} [95 %]" for name in others]
    print(table([*HEAD, *heads], [cells(one) for one in entries]))


def fitted_before(study: Study, report: Mapping[str, Any]) -> list[Row]:
    """Return the asked rows of a report, with the solvers that it has, for the base's weights.

    Args:
        study: whose options name the rows.
        report: of this command.

    Raises:
        PcmError: it lacks a row, or was made with other weights.
    """
    where, mine = study.options.output / "peers.json", fingerprint(study.policy.network)
    if report.get("policy", mine) != mine:
        raise PcmError(f"{where}: fitted to the weights {report['policy']}, not to {mine}")
    known = {row["name"]: row for row in report["rows"]}
    missing = [name for name in study.options.only if name not in known]
    if missing:
        raise PcmError(f"{where}: no row {', '.join(missing)}; leave out --again to fit it")
    asked = [known[name] for name in study.options.only]
    return [
        Row(row["family"], row["rounds"], study.policy.solver(todays(row["solver"])))
        for row in asked
    ]


def entry(
    study: Study, row: Row, wanted: torch.Tensor, others: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    """Play a row and return all that is known of it.

    Args:
        study: its policies and options.
        row: the row.
        wanted: ``(n, T, Da)`` the base's chunks of the study's observations.
        others: as of :func:`outcomes`.
    """
    model, off = study.model(row.family), study.error(row, wanted)
    outcome = played(model, row.solver, SEED, study.options.episodes, BLOCK, study.kept)
    found = {"name": row.name, "family": row.family, "rounds": row.rounds}
    found |= {"rmse": float(off.mean()), "rmse_p95": float(off.quantile(0.95))}
    found |= {"solver": flat(row.solver)}
    return found | outcomes(outcome, others)


if __name__ == "__main__":
    main()
