"""The tables of a benchmark."""

from pcm_policy.measure.bench import Bench
from pcm_policy.measure.conditions import said
from pcm_policy.measure.rows import OURS, Row, sequential
from pcm_policy.measure.tables import Table, table


def bench_rows(bench: Bench) -> Table:
    """Return one line a row, errors in normalised action units; LeRobot's column where it ran."""
    head = ["solver", "rounds", "NFE", "p50 ms", "p95 ms", "p99 ms", "max ms", "vs sequential"]
    head += [f"vs {bench.slowest.label}", "mean error", "max error"]
    beside = any(row.package == "lerobot" for row in bench.rows)
    return head + ["vs LeRobot"] * beside, [_cells(bench, row, beside) for row in bench.rows]


def _cells(bench: Bench, row: Row, beside: bool) -> list[str]:
    found, times = bench.errors[row], bench.times_ms[row]
    over = [sequential(row.reference), bench.slowest]
    more = [sequential(row.reference, "lerobot")] * beside

    def ratio(other: Row) -> str:
        value = bench.speedup(row, other)
        return "-" if value is None else f"{value:.2f}x"

    return [
        row.label,
        f"{found.rounds:.1f}",
        f"{found.nfe:.0f}",
        *(f"{times[name]:.2f}" for name in ("p50", "p95", "p99", "max")),
        *map(ratio, over),
        f"{found.mean_abs_error:.1e}",
        f"{found.max_abs_error:.1e}",
        *map(ratio, more),
    ]


def rounds_rows(bench: Bench) -> Table:
    """Return how many rounds each iteration needs until its error stays small."""
    head = ["sampler", "solver", f"rounds until error < {bench.facts['error']:g}", "worst"]
    return head, [
        [t.row.reference.label, t.label, f"{t.mean_rounds:.1f}", str(t.worst_rounds)]
        for t in bench.traces
    ]


def bench_table(bench: Bench) -> str:
    """Return the benchmark for the terminal."""
    facts = bench.facts
    versions = {bench.errors[row].version for row in bench.rows if row.package != OURS}
    lines = [
        table(*bench_rows(bench)),
        "",
        table(*rounds_rows(bench)),
        "",
        f"{said(facts)}, batch 1, {facts['calls']} calls; errors over {facts['observations']} "
        "held-out observations against the sequential chunk of the same sampler (few-step "
        "rows: of the sampler they shorten), actions in [-1, 1]",
    ]
    if bench.encode_ms is not None:
        spent = "p50 {p50:.2f} ms, p95 {p95:.2f} ms".format(**bench.encode_ms)
        lines.append(
            f"images to features, before every solve: {spent}; the rows are the solves alone"
        )
    lines += _certificates(facts["certificates"])
    lines += bench.left_out
    lines += [
        f"{name}: its own loop, eager, in its own process with as many threads, from "
        "normalised observations to the normalised chunk; our rows are whole predictions, "
        "from raw observations, checked, to raw actions"
        for name in sorted(versions)
    ]
    return "\n".join(lines)


def _certificates(found: dict[str, str]) -> list[str]:
    """Return a line for each thing that is known of certificates, with the rows it is true of."""
    of = {said: [row for row, own in found.items() if own == said] for said in found.values()}
    return [f"certificates {said}: {', '.join(rows)}" for said, rows in of.items()]
