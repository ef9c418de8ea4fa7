"""Tables and grids of the results, and one page that holds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.files import write_text
from pcm_policy.measure.page import embed, html_table, page
from pcm_policy.measure.pictures import new_figure, save_figure

SOLVED = [
    "sampler",
    "solver",
    "rounds to 1e-2",
    "times fewer",
    "error when settled",
    "states evaluated",
    "s per batch",
    "against sequential",
]
ROUNDS = ["", "rounds to equal Frechet distance", "times fewer than Picard", "after round 1", "2"]
ROUNDS += ["3", "4", "6", "8"]


def solved(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the cells of the table of solvers."""
    alone = {r["sampler"]: r["seconds"] for r in rows if r["solver"] == "sequential"}
    return [
        [
            row["sampler"],
            row["solver"],
            f"{row['rounds']:.1f}",
            f"{row['fewer']:.2f}",
            f"{row['error']:.1e}",
            "" if row["nfe"] is None else str(row["nfe"]),
            f"{row['seconds']:.2f}",
            f"{alone[row['sampler']] / row['seconds']:.2f}x",
        ]
        for row in rows
    ]


def by_round(report: Mapping[str, Any]) -> list[list[str]]:
    """Return the cells of the table of Frechet distances: a row for each solver and head."""
    base = report["equal"]["picard"]
    lines = []
    for name, trace in report["rounds"].items():
        equal = report["equal"][name]
        shown = [trace[k - 1] if k <= len(trace) else None for k in (1, 2, 3, 4, 6, 8)]
        lines.append(
            [
                name,
                "never" if equal is None else str(equal),
                f"{base / equal:.2f}" if equal and base else "",
                *("" if r is None else f"{r['frechet']:.3f} ({r['rmse']:.3f})" for r in shown),
            ]
        )
    return lines


def grid(rows: Mapping[str, Tensor], path: Path, count: int = 10) -> None:
    """Draw the first images of every row, its name beside them."""
    lines = [torch.cat(list(pad(images[:count, 0], (1, 1, 1, 1))), 1) for images in rows.values()]
    figure = new_figure(0.6 * count + 2.4, 0.62 * len(rows))
    axes = figure.subplots()
    axes.imshow(torch.cat(lines), cmap="gray", vmin=-1, vmax=1)
    side = len(lines[0])
    axes.set_yticks([side * (i + 0.5) - 0.5 for i in range(len(rows))], list(rows), fontsize=9)
    axes.set_xticks([])
    save_figure(figure, path, dpi=90)


def write_page(report: Mapping[str, Any], output: Path) -> None:
    """Write ``index.html``, which needs no other file."""
    switch = "".join(
        f"<p>{name}: after {report['switching_steps']} rounds of the head alone the largest error "
        f"of a pixel is {row['alone']:.3f}; switched off after two, {row['switched']:.1e} after "
        f"{row['rounds']} rounds in all.</p>"
        for name, row in report["switching"].items()
    )
    facts = (
        f"<p>{report['hardware']['device']}, {report['hardware']['threads']} threads; "
        f"{report['took']}. Classifier: {report['accuracy']:.3f} right. "
        f"Frechet distance of the sequential images to the real ones: {report['sequential']:.3f}; "
        "within 5 % of it counts as equal.</p>"
    )
    sections = [
        ("Images", embed(output / "images.png") + embed(output / "guidance.png")),
        (
            "Solvers against diffusers' own loop",
            facts + html_table(SOLVED, solved(report["solved"])),
        ),
        (
            "Frechet distance (root mean square error) after every round",
            html_table(ROUNDS, by_round(report)),
        ),
        ("Model switching", switch),
    ]
    write_text(output / "index.html", page("Digits in parallel rounds", sections))
