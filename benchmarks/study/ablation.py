"""Every choice in the training of a head, one at a time: each row is a pcm-distill of its own.

    python -m benchmarks.study.ablation --policy P --dataset D --output DIR [key=value]

All rows have the same base, data, steps and seed; further overrides go to all of them. RMSE is to
the base chunk, same noise, in normalised units, after 1, 2 and 3 rounds (of the head alone) or
steps (of a consistency model) on the policy's held-out observations; ``perturbed`` is the mean over
the four kinds of ``benchmarks.study.perturbed``; ``visited`` is on observations of the base's own
episodes, from seed 500000; ``ramp`` is three rounds at shares 1, 2/3, 1/3;
``warm`` is one round from the base's chunk for other noise. A step of a consistency row has more
observations, so that it takes about as long as a step of the window head.

Writes ``ablation.json`` and ``ablation.md``. Run again, it skips the rows that are there and
resumes the one that was cut off. ``--only a,b`` takes some rows, ``--list`` prints them all.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.study.perturbed import situations
from benchmarks.study.search import visited_observations
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import conditions
from pcm_policy.measure.exactness import chunk_error, paired_noise, solved
from pcm_policy.measure.tables import markdown, table
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.pcm import ramp
from pcm_policy.solvers.registry import Solver

ROUNDS, OTHER_NOISE, EPISODES = (1, 2, 3), 10_000, 8
PAPER = ("distill.own=0", "distill.warm=0", "distill.prefix=0", "distill.weight=variance")
PAPER += ("distill.rounds=3", "distill.end_weight=0", "train.lr=0.0001", "distill.pool=512")
PAPER += ("distill.reuse=1000000", "train.batch=32")
FEW = ("train.batch=32", "distill.reuse=2")
"""As many calls of the base a step as by default, each used in fewer rows."""
LORA, COPY = ("head=lora", "train.lr=0.001", *FEW), ("head=copy", "train.lr=0.0003", *FEW)
CONSISTENCY = ("head=consistency", "train.batch=512", "train.lr=0.001")
ROWS: dict[str, tuple[str, ...]] = {
    "window": (),
    "no-newton": ("head.options.newton=false",),
    "no-guess": ("head.options.guess_width=0",),
    "guess-288": ("head.options.guess_width=288",),
    "guess-reuse-64": ("distill.guess_reuse=64",),
    "guess-reuse-2": ("distill.guess_reuse=2",),
    "demonstrations": ("dataset.more=[]",),
    "recorded": ("distill.own=0",),
    "half-own": ("distill.own=0.5",),
    "row": ("distill.weight=row",),
    "variance": ("distill.weight=variance",),
    "unweighted": ("distill.weight=none",),
    "no-ema": ("train.ema=0",),
    "cold": ("distill.warm=0",),
    "warm": ("distill.warm=1",),
    "no-prefix": ("distill.prefix=0",),
    "no-end": ("distill.end_weight=0",),
    "end-4": ("distill.end_weight=4",),
    "rounds-1": ("distill.rounds=1",),
    "rounds-3": ("distill.rounds=3",),
    "batch-32": FEW,
    "reuse-4": ("distill.reuse=4",),
    "reuse-64": ("distill.reuse=64",),
    "depth-1": ("head.options.depth=1",),
    "nodes-all": ("head.options.nodes=null",),
    "nodes-4": ("head.options.nodes=4",),
    "width-208": ("head.options.width=208",),
    "lr-0.002": ("train.lr=0.002",),
    "lr-0.01": ("train.lr=0.01",),
    "lora": LORA,
    "lora-32": (*LORA, "head.options.rank=32", "head.options.alpha=32"),
    "copy": COPY,
    "paper-lora": ("head=lora", *PAPER),
    "paper-copy": ("head=copy", *PAPER),
    "consistency": CONSISTENCY,
    "consistency-l2": (*CONSISTENCY, "head.options.loss=l2"),
    "consistency-ema-0": (*CONSISTENCY, "head.options.target_ema=0"),
    "consistency-ema-0.99": (*CONSISTENCY, "head.options.target_ema=0.99"),
    "consistency-100": (*CONSISTENCY, "sampler.steps=100"),
    "consistency-lr-0.0003": (*CONSISTENCY, "train.lr=0.0003"),
    "consistency-lr-0.003": (*CONSISTENCY, "train.lr=0.003"),
}
HEAD = ["row", "weights", "min", "RMSE 1", "2", "3", "perturbed 1", "2", "3"]
HEAD += ["visited 1", "2", "3", "ramp", "warm"]


def solver_of(policy: DiffusionPolicy, rounds: int) -> Solver:
    """Return ``rounds`` rounds of the head alone, or steps of a consistency model."""
    head = policy.config.head
    if head is not None:
        return Solver.of("pcm", head.sampler, rounds=rounds)
    return Solver.of("sequential", SamplerConfig("consistency", rounds))


def measure(
    policy: DiffusionPolicy, base: DiffusionPolicy, obs: Tensor, visited: Tensor
) -> dict[str, Any]:
    """Return the figures of one trained policy.

    Args:
        policy: with a head, or a consistency model.
        base: what it was distilled from.
        obs: ``(n, To, Do)`` raw held-out observations.
        visited: the same of the base's own episodes.
    """
    head = policy.config.head
    wanted = Solver.of("sequential", base.config.sampler if head is None else head.sampler)
    found: dict[str, Any] = {}
    for name, seen in {**situations(obs), "visited": visited}.items():
        exact = solved(base, wanted, seen)
        for r in ROUNDS:
            error = chunk_error(solved(policy, solver_of(policy, r), seen), exact).rmse
            kind = {"held out": "rmse", "visited": "visited"}.get(name, "perturbed")
            found.setdefault(kind, {}).setdefault(str(r), []).append(error)
    for kind, rows in found.items():
        found[kind] = {r: sum(errors) / len(errors) for r, errors in rows.items()}
    if head is None:
        return found | {"ramp": None, "warm": None}
    exact = solved(base, wanted, obs)
    shares = list(ramp(3, 1.0))
    ramped = policy.solver({"method": "pcm", "rounds": 3, "shares": shares})
    guess = solved(base, wanted, obs, OTHER_NOISE).sample
    one = policy.solver({"method": "pcm", "rounds": 1})
    warm = policy.solve(obs, one, paired_noise(policy, one, len(obs)), guess)
    found["ramp"] = chunk_error(solved(policy, ramped, obs), exact).rmse
    return found | {"warm": chunk_error(warm, exact).rmse}


def run_row(
    name: str, words: list[str], output: Path, base: DiffusionPolicy, visited: Tensor
) -> dict[str, Any]:
    """Train one row, or go on with it, and measure it."""
    folder = output / "runs" / name
    again = ["resume=true"] if (folder / "checkpoints").exists() else []
    start = time.monotonic()
    trained = cli_train.distill_main(compose("distill", [*words, f"output_dir={folder}", *again]))
    minutes = None if again else (time.monotonic() - start) / 60
    policy = DiffusionPolicy.from_pretrained(trained)
    module = policy.network if policy.head is None else policy.head
    return {
        "name": name,
        "command": "pcm-distill " + " ".join(words),
        "weights": sum(p.numel() for p in module.parameters()),
        "minutes": minutes,
        **measure(
            policy, base, base.held_out if base.held_out is not None else policy.held_out, visited
        ),
    }


def cells(row: dict[str, Any]) -> list[str]:
    """Format one row."""

    def number(value: float | None, form: str = ".4f") -> str:
        return "" if value is None else format(value, form)

    found = [row["name"], f"{row['weights']:,}", number(row["minutes"], ".1f")]
    found += [
        number(row[kind][str(r)]) for kind in ("rmse", "perturbed", "visited") for r in ROUNDS
    ]
    return [*found, number(row["ramp"]), number(row["warm"])]


def ordered(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a report in the order of :data:`ROWS`."""
    return [report["rows"][name] for name in ROWS if name in report["rows"]]


def text(report: Mapping[str, Any]) -> str:
    """Return the table as markdown, with what each row changes."""
    rows = ordered(report)
    commands = [f"`{' '.join(ROWS[row['name']]) or 'defaults'}`" for row in rows]
    lines = [[*cells(row), c] for row, c in zip(rows, commands, strict=True)]
    return markdown([*HEAD, "overrides"], lines) + "\n"


def main(words: Sequence[str] | None = None) -> None:
    """Train and measure the rows that are missing; print all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    parser.add_argument("--dataset")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--only", default=",".join(ROWS), metavar="ROW,ROW")
    parser.add_argument("--list", action="store_true")
    options, overrides = parser.parse_known_args(words)
    if options.list:
        print(table(["row", "overrides"], [[name, " ".join(o)] for name, o in ROWS.items()]))
        return
    names = options.only.split(",")
    unknown = [name for name in names if name not in ROWS]
    stray = [word for word in overrides if "=" not in word or word.startswith("-")]
    if unknown or stray or options.dataset is None or options.output is None:
        raise PcmError(
            f"ablation: {(unknown or stray or ['--dataset and --output'])[0]!r} is unknown or "
            "missing: give --dataset D --output DIR, --only names from --list, and key=value"
        )
    base = DiffusionPolicy.from_pretrained(options.policy)
    base.held_out = held_out_observations(options.policy)
    visited = visited_observations(base, EPISODES)
    file = options.output / "ablation.json"
    report = json.loads(file.read_text()) if file.exists() else {"rows": {}}
    common = [f"policy={options.policy}", f"dataset.path={options.dataset}"]
    common += [f"train.steps={options.steps}", *overrides]
    for name in names:
        given = [*common, *ROWS[name]]
        if report["rows"].get(name, {}).get("command") == "pcm-distill " + " ".join(given):
            continue
        row = run_row(name, given, options.output, base, visited)
        report = {
            "base": fingerprint(base.network),
            "observations": len(base.held_out),
            **conditions(base),
            "rows": report["rows"] | {name: row},
        }
        write_text(file, to_json(report))
    rows = ordered(report)
    print(table(HEAD, [cells(row) for row in rows]))
    for row in rows:
        print(f"{row['name']}: {row['command']}")
    write_text(options.output / "ablation.md", text(report))


if __name__ == "__main__":
    main()
