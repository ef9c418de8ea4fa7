"""PCM against everything a user would otherwise take, at 1, 2, 3, 4, 6 and 8 network rounds.

    python -m benchmarks.study.pcm --policy P [--consistency P2] [--high-noise P3]
        [--drifting P4] --output DIR

P has a PCM head; its base sampler's sequential chunk is what errors and paired differences refer
to. P2 is a consistency model of the same base (``pcm-distill head=consistency``), P3 the base
trained on at high noise (``benchmarks.peers.high_noise``), P4 a drifting policy
(``benchmarks.peers.drifting``). Rounds past the head's are base rounds.
"PCM mean 2" stops each chunk when it settles (``solver.settle``), after four rounds at the latest
and two on average. EPD-Solver and STEP (``benchmarks/peers/``) run on the base's weights, "EPD 2"
in two calls one after another. Few-step DDIM, DPM-Solver++ and the consistency model
run at the best of three spacings and a searched schedule, the first two at their best temperature;
these, the level to settle at and Newton's Jacobian are chosen on episodes from seed 500000.
Reported are 256 held-out observations and episodes from seed 100000, with paired noise. Executed
actions are clipped to the demonstrations' range, which only ParaDiGMS leaves. Times are one
prediction at batch 1, all rows taking turns, on the base's network: a consistency model has its
shape.

Writes ``study.json``, ``study.md``, ``error.png``, ``score.png``, ``pareto.png`` and ``episodes/``.
Run again, it goes on where it was cut off. ``--ray ADDRESS`` plays the rows'
episodes in a Ray cluster, a row at a time in each of its processes; times are taken here.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.peers.rows import PEERS, best_peer, families
from benchmarks.study import pareto as pcm_study_pareto
from benchmarks.study.perturbed import robustness
from benchmarks.study.ratios import (
    WITHIN,
    Needed,
    at_outcome,
    first_round,
    fractional_round,
    ratios,
)
from benchmarks.study.rows import (
    FEW_STEPS,
    SETTLING,
    TRAINED,
    Played,
    Row,
    calls,
    certified_rounds,
    compare,
    pairs,
    parallel_families,
    parallel_solver,
    play,
    rmse_by_round,
)
from benchmarks.study.search import TUNING_SEED, best_path, best_sampler, visited_observations
from benchmarks.study.show import HEAD, cells, pictures, tables
from benchmarks.study.spread import Setting, Task, play_rows
from pcm_policy.cli.cluster import absolute
from pcm_policy.errors import PcmError
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.bench import time_predictions
from pcm_policy.measure.conditions import conditions, said
from pcm_policy.measure.exactness import ON_AVERAGE, settle_level, settling, solved
from pcm_policy.measure.tables import markdown, table
from pcm_policy.policy.fingerprint import fingerprint
from pcm_policy.policy.held_out import held_out_observations
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver, flat

ROUNDS, SEED, ERRORS = (1, 2, 3, 4, 6, 8), 100_000, (0.02, 0.01)
Times = dict[Solver, dict[str, float]]


class Study:
    """One policy, its consistency model, and what is measured on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        policy = DiffusionPolicy.from_pretrained(options.policy)
        if policy.config.head is None:
            raise PcmError(f"{options.policy} has no PCM head: give a folder of pcm-distill")
        self.options, self.policy, self.exact = options, policy, policy.config.head.sampler
        self.base = Solver.of("sequential", self.exact)
        given = {family: getattr(options, family.replace("-", "_")) for family in TRAINED}
        self.folders = {family: folder for family, folder in given.items() if folder}
        self.trained = {f: DiffusionPolicy.from_pretrained(p) for f, p in self.folders.items()}
        self.obs = held_out_observations(options.policy)[: options.observations]
        self.kept = options.output / "episodes"
        self.visited = visited_observations(policy, options.search_episodes)
        policy.calibrate(self.visited[:128], self.exact)

    def model(self, family: str) -> DiffusionPolicy:
        """Return the weights of a family."""
        return self.trained.get(family, self.policy)

    def chosen(self, family: str, rounds: float) -> bool:
        """Whether a row is asked for."""
        return not self.options.only or f"{family} {rounds:g}" in self.options.only

    def rows(self) -> tuple[list[Row], dict[str, Any]]:
        """Return all rows, the base first, and how the few-step schedules were chosen."""
        rows = [Row("base", self.exact.steps, self.base)]
        schedule = self.policy.config.schedule
        ancestral = self.exact.name != "ddpm" and not schedule.is_flow
        if ancestral and self.chosen("DDPM", schedule.train_steps):
            share = self.exact.temperature
            slow = SamplerConfig("ddpm", schedule.train_steps, temperature=share)
            rows.append(Row("DDPM", schedule.train_steps, Solver.of("sequential", slow)))
        for family in parallel_families(self.policy):
            for r in self.options.rounds:
                if self.chosen(family, r):
                    rows.append(Row(family, r, parallel_solver(self.policy, family, r)))
        for mean in ON_AVERAGE:
            if self.chosen(SETTLING, mean):
                level = settle_level(self.policy, self.visited[:256], mean)
                rows.append(Row(SETTLING, mean, settling(self.policy, level)))
        peers, chosen = self.peers()
        rows += peers
        few = [f for f in FEW_STEPS if f not in TRAINED or f in self.trained]
        searched = [(f, r) for f in few for r in calls(f, self.options.rounds) if self.chosen(f, r)]
        path = self.exact
        if any(family not in TRAINED for family, _ in searched):
            path = best_path(self.policy, self.options.tuning_episodes, self.kept)
            chosen["path"] = asdict(path)
        for family, r in tqdm(searched, desc="schedules", disable=None):
            sampler, chosen[f"{family} {r}"] = best_sampler(
                self.model(family),
                self.policy,
                family,
                r,
                self.visited,
                path,
                self.options.tuning_episodes,
                self.kept,
            )
            rows.append(Row(family, r, Solver.of("sequential", sampler)))
        return rows, chosen

    def peers(self) -> tuple[list[Row], dict[str, Any]]:
        """Return the rows of other methods on the base's weights, and how they were chosen."""
        rows, chosen = list[Row](), dict[str, Any]()
        every = [
            (f, r) for f in families(self.policy) for r in PEERS[f] if r in self.options.rounds
        ]
        asked = [(family, r) for family, r in every if self.chosen(family, r)]
        for family, r in tqdm(asked, desc="peers", disable=None):
            solver, chosen[f"{family} {r}"] = best_peer(
                self.policy,
                family,
                r,
                self.visited,
                self.options.tuning_episodes,
                self.kept,
                self.options.fit_steps,
            )
            rows.append(Row(family, r, solver))
        return rows, chosen

    def errors(self, rows: Sequence[Row]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return ``(n,)`` RMSE of every row by name, and ``(rounds, n)`` by parallel family."""
        wanted = solved(self.policy, self.base, self.obs).sample
        traces = {
            family: rmse_by_round(self.policy, family, self.obs, wanted)
            for family in parallel_families(self.policy)
        }
        found = {}
        for row in rows:
            if row.family in traces:
                trace = traces[row.family]
                found[row.name] = trace[min(int(row.rounds), len(trace)) - 1]
            else:
                found[row.name] = self.error(row, wanted)
        return found, traces

    def error(self, row: Row, wanted: Tensor) -> Tensor:
        """Return ``(n,)`` RMSE of one row to the base's ``(n, T, Da)`` chunks."""
        off = solved(self.model(row.family), row.solver, self.obs).sample - wanted
        return off.square().mean(dim=(1, 2)).sqrt().cpu()

    def crossings(
        self, rows: Sequence[Row], off: dict[str, Tensor], traces: dict[str, Tensor], error: float
    ) -> dict[str, tuple[float, Solver] | None]:
        """Return for every family rounds and solver at which the mean RMSE is small enough."""
        found: dict[str, tuple[float, Solver] | None] = {"base": (rows[0].rounds, self.base)}
        for family, trace in traces.items():
            r = first_round(trace.mean(dim=1).tolist(), error)
            found[family] = r and (r, parallel_solver(self.policy, family, r))
        for row in rows:
            if row.family in FEW_STEPS:
                reached = float(off[row.name].mean()) <= error
                if reached and found.get(row.family) is None:
                    found[row.family] = row.rounds, row.solver
                found.setdefault(row.family, None)
        return found

    def times(self, solvers: Iterable[Solver]) -> Times:
        """Time one prediction of every solver, taking turns."""
        timed = list(dict.fromkeys(solvers))
        bar = lambda items, what: tqdm(items, desc=what, disable=None)  # noqa: E731
        found = time_predictions(
            self.policy, timed, self.obs.numpy(), self.options.calls, progress=bar
        )
        return dict(zip(timed, found, strict=True))

    def spread(self, rows: Sequence[Row]) -> None:
        """Play all rows in a Ray cluster, if one was named."""
        options = self.options
        if options.ray is None:
            return
        models = [self.policy, *self.trained.values()]
        places = tuple(absolute(folder) for folder in (options.policy, *self.folders.values()))
        setting = Setting(
            places, self.visited[:128], self.exact, options.episodes, SEED, options.threads
        )
        number = {family: i for i, family in enumerate(self.trained, 1)}
        tasks = [Task(row.name, number.get(row.family, 0), row.solver) for row in rows]
        play_rows(setting, models, tasks, self.kept, options.ray)

    def report(self) -> dict[str, Any]:
        """Measure everything; print rows as they come."""
        rows, chosen = self.rows()
        off, traces = self.errors(rows)
        crossed = {f"RMSE {e:g}": self.crossings(rows, off, traces, e) for e in ERRORS}
        reached = [c[1] for found in crossed.values() for c in found.values() if c is not None]
        ms = self.times([*(row.solver for row in rows), *reached])
        self.spread(rows)
        played: dict[str, Played] = {}
        entries = []
        for row in tqdm(rows, desc="episodes", disable=None):
            played[row.name] = play(
                self.model(row.family), row.solver, self.options.episodes, SEED, self.kept
            )
            error = off[row.name]
            entry = {"name": row.name, "family": row.family, "rounds": row.rounds}
            entry |= {"rmse": float(error.mean()), "rmse_p95": float(error.quantile(0.95))}
            entry |= compare(played[row.name], played[rows[0].name])
            entry |= {"ms": ms[row.solver], "solver": flat(row.solver)}
            entry |= {"episode_rounds": played[row.name].rounds}
            entries.append(entry)
            tqdm.write("  ".join(cells(entry)))
        at = {
            title: {f: Needed(c[0], ms[c[1]]["p50"]) if c else Needed() for f, c in found.items()}
            for title, found in crossed.items()
        }
        at |= {f"{n} within {w:g}": at_outcome(entries, n, w) for n, w in WITHIN.items()}
        means = {family: trace.mean(dim=1).tolist() for family, trace in traces.items()}
        return {
            "policy": fingerprint(self.policy.network),
            "base": self.exact.label,
            "rounds": list(self.options.rounds),
            "episodes": self.options.episodes,
            "seed": SEED,
            "observations": len(self.obs),
            "rows": entries,
            "equal": {t: {f: asdict(n) for f, n in found.items()} for t, found in at.items()},
            "ratios": {title: ratios(found) for title, found in at.items()},
            "pairs": pairs(played),
            "rmse_by_round": means,
            "fractional_rounds": {
                str(e): {f: fractional_round(trace, e) for f, trace in means.items()}
                for e in ERRORS
            },
            "certified": certified_rounds(self.policy, self.obs),
            "perturbed": robustness(self.policy, self.obs),
            "fronts": pcm_study_pareto.fronts(entries),
            "tuning": {
                "seed": TUNING_SEED,
                "episodes": self.options.tuning_episodes,
                "schedules": chosen,
            },
            **conditions(self.policy),
        }


def excerpt(command: str, report: Mapping[str, Any]) -> str:
    """Return the rows of few rounds and calls as markdown, with what they mean."""
    shown = ["base", "DDPM", *FEW_STEPS, *PEERS, "Picard", "Newton", "PCM", SETTLING]
    rows = [row for f in shown for row in report["rows"] if row["family"] == f]
    chosen = [row for row in rows if row["rounds"] <= 4 or row["family"] in ("base", "DDPM")]
    return (
        f"`{command.split(' --only')[0]} --output DIR`, the rows of up to "
        f"four rounds or calls, base weights "
        f"`{report['policy']}`. {report['episodes']} episodes from seed {report['seed']}, paired "
        f"seeds and noise, on {said(report)}, batch 1. Actions lie in [-1, 1].\n\n"
        f"- `base`: {report['base']}, sequentially{_noisy(report['base'])}.\n"
        f"- `DDIM n`, `DPM-Solver++ n`: that many sequential network calls.\n"
        f"- `PCM 1`, `PCM 2`: that many head rounds. `PCM 3`: two head rounds, then a base round. "
        f"`{SETTLING} 2`: each chunk ends by itself (`solver.settle`), after two rounds on "
        f"average.\n"
        f"- RMSE: distance to the base's chunk on held-out observations. p50 and p95 are "
        f"percentiles.\n\n"
        f"We chose the timesteps of the few-step samplers and the level of `solver.settle` on "
        f"other seeds.\n\n"
        f"{markdown(HEAD, [cells(row) for row in chosen])}\n"
    )


def _noisy(base: str) -> str:
    """Explain the label of a sampler that draws noise."""
    if " eta " not in base:
        return ""
    eta, _, temperature = base.partition(" eta ")[2].partition(" at ")
    at = f", at temperature {temperature}" if temperature else ""
    return f": its steps draw noise (`eta={eta}`){at}"


def add_rows(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which rows there are and what they are measured on."""
    for family in TRAINED:
        parser.add_argument(f"--{family}", default=None, help="folder of such a model")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, nargs="+", default=list(ROUNDS))
    parser.add_argument("--only", nargs="+", help='rows by name, such as "PCM 2"; else all')
    parser.add_argument("--observations", type=int, default=256)
    parser.add_argument("--tuning-episodes", type=int, default=100)
    parser.add_argument("--search-episodes", type=int, default=8)
    parser.add_argument("--fit-steps", type=int, default=60, help="of an EPD-Solver's numbers")
    parser.add_argument("--threads", type=int, default=1)


def main(words: Sequence[str] | None = None) -> None:
    """Measure, print, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--policy", default="released/pusht")
    add_rows(parser)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--ray", help="address of a Ray cluster that plays the rows, or local")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    report = Study(options).report()
    command = f"python -m benchmarks.study.pcm --policy {options.policy}"
    for family in TRAINED:
        if folder := getattr(options, family.replace("-", "_")):
            command += f" --{family} {folder}"
    command += f" --episodes {options.episodes}"
    if options.only:
        command += " --only " + " ".join(f'"{name}"' for name in options.only)
    write_text(options.output / "study.json", to_json(report))
    found = tables(report)
    text = "\n\n".join(markdown(head, rows) for head, rows in found)
    write_text(options.output / "study.md", f"`{command}`\n\n{text}\n")
    pictures(report, options.output)
    pcm_study_pareto.picture(report, options.output / "pareto.png")
    print("\n\n".join(table(head, rows) for head, rows in found))


if __name__ == "__main__":
    main()
