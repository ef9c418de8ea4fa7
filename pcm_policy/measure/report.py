"""Tables, pictures, cards and the one-page report."""

import base64
import html
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.training.loop import TrainConfig


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for the terminal: first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *rest]).rstrip()

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out the same table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


_BENCH_HEAD = [
    "solver",
    "rounds",
    "NFE",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "max ms",
    "vs sequential",
    "vs DDPM",
    "mean error",
    "max error",
]


def bench_head(report: Mapping[str, Any]) -> list[str]:
    """Return the columns of a benchmark; LeRobot's only where it took part."""
    return [*_BENCH_HEAD, *(["vs LeRobot"] if _beside_lerobot(report) else [])]


def _beside_lerobot(report: Mapping[str, Any]) -> bool:
    return any(row["package"] == "lerobot" for row in report["rows"])


def bench_label(row: Mapping[str, Any]) -> str:
    """Return a row's name: another package's rows begin with its name."""
    own = row["package"] == "pcm_policy"
    return str(row["solver"]) if own else f"{row['package']} {row['solver']}"


def bench_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Format the rows of a benchmark; errors are in normalised action units."""

    def beside(row: Mapping[str, Any]) -> list[str]:
        if not _beside_lerobot(report):
            return []
        ratio = row.get("speedup_over_lerobot")
        return ["-" if ratio is None else f"{ratio:.2f}x"]

    return [
        [
            bench_label(row),
            f"{row['rounds']:.1f}",
            f"{row['nfe']:.0f}",
            *(f"{row[key]:.2f}" for key in ("p50_ms", "p95_ms", "p99_ms", "max_ms")),
            f"{row['speedup']:.2f}x",
            f"{row['speedup_over_ddpm']:.2f}x",
            f"{row['mean_abs_error']:.1e}",
            f"{row['max_abs_error']:.1e}",
            *beside(row),
        ]
        for row in report["rows"]
    ]


def rounds_rows(report: Mapping[str, Any]) -> list[list[str]]:
    """Format how many rounds each iteration needs until its error stays small."""
    return [
        [r["reference"], r["solver"], f"{r['mean_rounds']:.1f}", str(r["worst_rounds"])]
        for r in report["rounds_to_error"]
    ]


def bench_table(report: Mapping[str, Any]) -> str:
    """Return the benchmark for the terminal."""
    machine = report["hardware"]
    rounds_head = ["sampler", "solver", f"rounds until error < {report['error']:g}", "worst"]
    peers = sorted({row["version"] for row in report["rows"] if "version" in row})
    return "\n".join(
        [
            table(bench_head(report), bench_rows(report)),
            "",
            table(rounds_head, rounds_rows(report)),
            "",
            f"{machine['device']}, {machine['threads']} threads, {report['dtype']}, batch 1, "
            f"{machine['mode']}, {report['calls']} calls; errors over {report['observations']} "
            "held-out observations against the sequential chunk of the same sampler (few-step "
            "rows: of the sampler they shorten), actions in [-1, 1]",
            *(
                [
                    "images to features, before every solve: p50 {p50:.2f} ms, p95 {p95:.2f} ms; "
                    "the rows are the solves alone".format(**report["encode_ms"])
                ]
                if "encode_ms" in report
                else []
            ),
            *report.get("left_out", ()),
            *(
                f"{name}: its own loop, eager, in its own process with as many threads, from "
                "normalised observations to the normalised chunk; our rows are whole predictions, "
                "from raw observations, checked, to raw actions"
                for name in peers
            ),
        ]
    )


def bench_picture(report: Mapping[str, Any], path: Path) -> None:
    """Draw latency (p50 to p99) of all solvers, and error against rounds of the iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    from pcm_policy.files import write_file

    rows = report["rows"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 0.28 * len(rows) + 2))
    p50 = [row["p50_ms"] for row in rows]
    spread = [[0.0] * len(rows), [row["p99_ms"] - row["p50_ms"] for row in rows]]
    colours = [SOLVER_COLOURS[_family(row["solver"])] for row in rows]
    left.barh(range(len(rows)), p50, xerr=spread, color=colours, ecolor="0.4")
    left.set_yticks(range(len(rows)), [bench_label(row) for row in rows])
    left.invert_yaxis()
    left.set_xscale("log")
    left.xaxis.set_minor_formatter(ticker.NullFormatter())
    left.set_xlabel("time per chunk [ms], p50 (bar) to p99 (line)")
    left.set_title(f"Latency, batch 1, {report['hardware']['device']}")
    styles = {"ddpm": "-", "ddim": "--"}
    for trace in report["rounds_to_error"]:
        name, steps = trace["reference"].split("-")
        error = [max(e, 1e-8) for e in trace["mean_error_by_round"]]
        right.semilogy(
            range(1, len(error) + 1),
            error,
            styles[name],
            color=SOLVER_COLOURS[_family(trace["solver"])],
            alpha=0.4 if steps == "32" else 1.0,
            label=f"{trace['solver']}, {trace['reference']}",
        )
    right.axhline(report["error"], color="0.7", lw=0.8)
    right.set_ylim(1e-7, None)
    right.set_xlabel("rounds")
    right.set_ylabel("largest action error, mean over observations")
    right.set_title("Distance to the sequential chunk")
    right.legend(fontsize=8)
    figure.tight_layout()
    write_file(path, lambda scratch: figure.savefig(scratch, dpi=110))
    plt.close(figure)


SOLVER_COLOURS = {
    "sequential": "0.6",
    "picard": "tab:blue",
    "coarse": "tab:olive",
    "anderson": "tab:cyan",
    "newton": "tab:purple",
    "paradigms": "tab:orange",
    "pcm": "tab:green",
}


def _family(label: str) -> str:
    return next((name for name in SOLVER_COLOURS if label.startswith(name)), "sequential")


def card(
    policy: DiffusionPolicy,
    data: str,
    command: str,
    training: TrainConfig,
    made: Mapping[str, str] = MappingProxyType({}),
    measured: str = "",
) -> str:
    """Return the README of a policy folder: how it was made and what it does.

    Args:
        policy: the policy.
        data: what it was trained on.
        command: name of the command; its words are taken from ``sys.argv``.
        training: settings of the run.
        made: further rows of the table, such as the time it took.
        measured: Markdown of what was measured on it.
    """
    head = policy.config.head
    rows = [[k, str(v)] for k, v in asdict(training).items()]
    rows += [[k, v] for k, v in made.items()]
    kind = "base and PCM head" if head is not None else "base"
    if policy.config.sampler.name == "consistency":
        kind = "consistency model"
    words = " ".join([command, *sys.argv[1:]])
    network = sum(p.numel() for p in policy.network.parameters())
    extra = ""
    if head is not None:
        assert policy.head is not None
        extra = (
            f"PCM head: `{head.name}`, {sum(p.numel() for p in policy.head.parameters()):,} "
            f"weights, for {head.sampler.label} ({head.sampler.spacing}), on base `{head.base}`.\n"
        )
    return (
        "---\nlibrary_name: pcm_policy\ntags: [robotics, diffusion-policy, picard]\n---\n"
        f"# Diffusion policy for {policy.config.task} ({kind})\n\n"
        f"Data: {data}.\n\nCommand: `{words}`\n\n"
        f"Network: `{policy.config.network}`, {network:,} weights, "
        f"{policy.config.schedule.train_steps} denoising steps, {policy.config.prediction}.\n"
        f"{extra}\n{markdown(['setting', 'value'], rows)}\n"
        + (f"\n## Exactness\n\n{measured}" if measured else "")
    )


def embed(path: Path) -> str:
    """Return an image or film as an HTML element that needs no other file."""
    data = base64.b64encode(path.read_bytes()).decode()
    if path.suffix == ".mp4":
        return (
            f'<video controls autoplay loop muted width="340" '
            f'src="data:video/mp4;base64,{data}"></video>'
        )
    return f'<img style="max-width:100%" src="data:image/png;base64,{data}">'


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in HTML."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<table>{line(head, 'th')}{body}</table>"


def page(title: str, sections: Sequence[tuple[str, str]]) -> str:
    """Return one self-contained HTML page of ``(heading, html)`` sections."""
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
        "table{border-collapse:collapse;font-size:13px}td,th{padding:2px 9px;text-align:right;"
        "border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}"
    )
    body = "".join(f"<h2>{html.escape(h)}</h2>{content}" for h, content in sections)
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style><h1>{html.escape(title)}</h1>{body}</html>\n"
    )
