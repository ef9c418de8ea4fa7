"""All measured tables and pictures of README and docs, made again from the committed results.

    python -m benchmarks.figures [--quick] [--check]

A figure is made of files in ``benchmarks/results`` alone, so that nothing is measured here; what a
file was measured with is in it (``command``). ``--check`` changes nothing, and fails where a
document shows another table than its results give. ``--quick`` leaves out the pictures.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import (
    RESULTS,
    big_lerobot,
    engines,
    memory,
    packages,
    robosuite_versions,
    scale,
    scale_agreement,
    scale_training,
    versions,
    watched,
)
from benchmarks.compare import picture, users
from benchmarks.control import arms, cameras, history, warm
from benchmarks.lerobot import heads, outside_page
from benchmarks.pasted import Figure, Picture, block, paste, pasted
from benchmarks.routes import page as routes
from benchmarks.solvers import certificates, certified, linearised, placed, profile, rounds
from benchmarks.study import ablation, longer, pareto, pcm, peers, precision, summary
from benchmarks.study import engines as study_engines
from examples.images import page as images
from pcm_policy.measure.conditions import said

ARMS = ("lift", "lift_image", "metaworld_pick-place", "pusht")
ROUTES = ("lift", "lift-transformer", "can", "square", "pick-place", "peg-insert-side")
STUDIES = ("study/pusht/study.json", "study/pusht_mlp/study.json")


def rows_of(
    head: list[str], cells: Callable[[dict[str, Any]], list[str]], key: str = "rows"
) -> Callable[[Any], str]:
    """Return what makes a table of a list in a result, a line of each entry."""
    return lambda found: block(head, list(map(cells, found[key])))


def about(found: Mapping[str, Any], more: str, text: str) -> str:
    """Put the command and the conditions of a result above its table."""
    one = next(iter(found.get("policies", {}).values()), found)
    executed = {"threads": one["hardware"]["threads"]} | one["runtime"]
    where = said({**one, "runtime": executed})
    return f"`{found['command'].replace(' --docs', '')}` on {where}{more}:\n\n{text}"


def told(
    head: list[str], cells: Callable[[dict[str, Any]], list[str]], more: str = ""
) -> Callable[[Any], str]:
    """Return what makes a table of the rows of a result, under its command and conditions."""
    return lambda found: about(found, more, rows_of(head, cells)(found))


def _certificates(found: Any) -> str:
    rows = found["rows"]
    count, false = (sum(row[name] for row in rows) for name in ("certified", "false"))
    text = block(certificates.HEAD, list(map(certificates.cells, rows)))
    return about(found, f"; {count:,} certificates, {false} of them false", text)


def _engines(*found: Any) -> str:
    lines = []
    for name, report in zip(engines.POLICIES, found, strict=True):
        for first, *rest in map(engines.cells, report["rows"]):
            lines.append([f"{Path(name).name}: {first}", *rest])
    return block(engines.HEAD, lines)


def _routes(*found: Any, solves: bool = True) -> str:
    return block(["", *(one["name"] for one in found)], routes.rows(found, solves=solves))


EXACT = ["solver", "rounds", "evaluations", "p50 ms", "p95 ms", "times faster", "largest error"]


def _exact(found: Any) -> str:
    """Return how long solvers take to a sampler's own chunk, and the sampler itself."""
    rows = [row for row in found["rows"] if row["solver"].endswith(f"{row['reference']})")]
    rows += [row for row in found["rows"] if row["solver"] == row["reference"]]
    order = [row["reference"] for row in found["rows"]]
    lines = [
        [
            row["solver"],
            *(f"{row[key]:.1f}" for key in ("rounds", "nfe", "p50_ms", "p95_ms")),
            f"{row['speedup']:.2f}x",
            f"{row['max_abs_error']:.0e}",
        ]
        for row in sorted(rows, key=lambda row: (order.index(row["reference"]), -row["p50_ms"]))
    ]
    return about(found, ", batch 1", block(EXACT, lines))


def _packages(found: Any) -> str:
    first, *_ = found["rows"]
    return block(packages.HEAD, [packages.cells(row, first) for row in found["rows"]])


def _measured(found: Any) -> str:
    executed = {"threads": 1, "mode": "eager", "precision": "float32", "tf32": False}
    return pcm.excerpt(found["command"], {"runtime": executed} | found)


FIGURES = (
    Figure("README.md", "measured", STUDIES[:1], _measured),
    Figure(
        "README.md",
        "longer",
        ("study/pusht/longer.json",),
        told(longer.HEAD, longer.cells),
    ),
    Figure(
        "README.md",
        "routes",
        tuple(f"routes/{name}.json" for name in ROUTES),
        _routes,
    ),
    Figure(
        "docs/control.md",
        "cameras",
        ("cameras/cameras.json",),
        lambda found: block(cameras.HEAD, cameras.lines(found)),
    ),
    Figure("docs/control.md", "arms", tuple(f"arms/{x}.json" for x in ARMS), arms.tables),
    Figure(
        "docs/control.md",
        "history",
        ("history/history.json",),
        rows_of(history.HEAD, history.cells),
    ),
    *(
        Figure(
            "docs/control.md",
            f"warm-{sampler}",
            (f"warm/{sampler}/warm.json",),
            told(warm.HEAD, warm.cells),
        )
        for sampler in ("ddim32", "ddim16")
    ),
    Figure(
        "docs/library.md",
        "images-solvers",
        ("images.json",),
        lambda found: block(images.SOLVED, images.solved(found["solved"])),
    ),
    Figure(
        "docs/library.md",
        "images-rounds",
        ("images.json",),
        lambda found: block(images.ROUNDS, images.by_round(found)),
    ),
    Figure(
        "docs/pcm.md",
        "certified",
        ("certified.json",),
        told(certified.HEAD, certified.cells, ", batch 1"),
    ),
    *(
        Figure(
            "docs/pcm.md",
            name,
            (f"placed/{policy}.json",),
            rows_of(placed.HEAD, placed.cells),
        )
        for name, policy in (("placed", "pusht"), ("placed-mlp", "pusht_mlp"))
    ),
    Figure("docs/pcm.md", "study", STUDIES, summary.text),
    Figure("docs/pcm.md", "peers", ("study/pusht/peers.json",), peers.text),
    Figure("docs/pcm.md", "ablation", ("ablation.json",), ablation.text),
    Figure(
        "docs/performance.md",
        "users",
        ("compare/users.json",),
        lambda found: block(users.HEAD, users.lines(found["rows"])),
    ),
    Figure(
        "docs/performance.md",
        "precision",
        ("study/precision.json",),
        rows_of(precision.HEAD, precision.cells),
    ),
    Figure("docs/performance.md", "packages", ("packages/packages.json",), _packages),
    Figure(
        "docs/performance.md",
        "engines",
        tuple(f"engines/{Path(name).name}.json" for name in engines.POLICIES),
        _engines,
    ),
    Figure(
        "docs/performance.md",
        "profile",
        ("profile_solve.json",),
        lambda found: block(profile.HEAD, profile.cells(found["policies"])),
    ),
    Figure(
        "docs/scale.md",
        "memory",
        ("scale/memory.json",),
        lambda found: block(memory.HEAD, memory.lines(found)),
    ),
    Figure("docs/scale.md", "scale", ("scale/scale.json",), rows_of(scale.HEAD, scale.cells)),
    Figure(
        "docs/scale.md",
        "scale-checked",
        ("scale/scale.json",),
        rows_of(scale.CHECK, scale.checked_cells, "checked"),
    ),
    Figure(
        "docs/scale.md",
        "agreement",
        ("scale/agreement.json",),
        rows_of(scale_agreement.HEAD, scale_agreement.cells),
    ),
    Figure(
        "docs/scale.md",
        "training",
        ("scale/training.json",),
        rows_of(scale_training.HEAD, scale_training.cells),
    ),
    Figure(
        "docs/solvers.md",
        "rounds",
        ("rounds.json",),
        told(rounds.HEAD, rounds.cells, ", cold, actions in [-1, 1]"),
    ),
    Figure(
        "docs/solvers.md",
        "linearised",
        ("linearised.json",),
        told(linearised.HEAD, linearised.cells, ", cold, 64 observations"),
    ),
    Figure("docs/solvers.md", "exact", ("exact/bench.json",), _exact),
    Figure("docs/solvers.md", "false", ("certificates.json",), _certificates),
    Figure(
        "docs/tasks.md",
        "robosuite-versions",
        ("robosuite_versions.json",),
        rows_of(robosuite_versions.HEAD, robosuite_versions.cells),
    ),
    Figure(
        "docs/tasks.md",
        "robosuite15",
        tuple(f"routes/{name}-robosuite-1.5.json" for name in ("lift", "can", "square")),
        _routes,
    ),
    Figure(
        "docs/tasks.md",
        "door",
        ("routes/adroit_door.json",),
        _routes,
    ),
    Figure(
        "docs/tasks.md",
        "lift-image",
        ("routes/lift_image.json",),
        partial(_routes, solves=False),  # other work lengthened them
    ),
    Figure(
        "docs/tasks.md",
        "aloha",
        ("routes/aloha_transfer_cube.json",),
        _routes,
    ),
    Figure(
        "docs/training.md",
        "big-hdf5",
        ("memory/big_hdf5.json",),
        lambda found: block(watched.HEAD, watched.lines(found)),
    ),
    Figure(
        "docs/training.md",
        "big-lerobot",
        ("memory/big_lerobot.json",),
        lambda found: block(watched.HEAD, watched.lines(found)),
    ),
    Figure(
        "docs/training.md",
        "big-lerobot-times",
        ("memory/big_lerobot.json",),
        lambda found: block(big_lerobot.TIME, big_lerobot.times(found)),
    ),
    Figure(
        "docs/training.md",
        "versions",
        ("versions.json",),
        lambda found: block(versions.HEAD, versions.lines(found["rows"])),
    ),
    Figure(
        "docs/vla.md",
        "rounds",
        ("lerobot/rounds.json",),
        lambda found: block(outside_page.ROUNDS_HEAD, outside_page.rounds_lines(found["rounds"])),
    ),
    Figure(
        "docs/vla.md",
        "heads",
        ("lerobot/heads.json",),
        rows_of(heads.HEAD, heads.cells),
    ),
    Figure(
        "docs/vla.md",
        "speed",
        ("lerobot/speed.json",),
        lambda found: block(
            outside_page.SPEED_HEAD,
            list(map(outside_page.speed_cells, outside_page.speed_rows(found["speed"]))),
        ),
    ),
)
PICTURES = (
    Picture("study/pusht/pareto.png", STUDIES[:1], pareto.picture),
    Picture("study/pusht/engines.png", ("study/pusht/engines.json",), study_engines.picture),
    Picture("compare/cpu-65m.png", ("compare/cpu-65m.json",), picture.draw),
)
"""Of results alone; that of docs/library.md shows what its networks drew, and comes with them."""


def main(argv: list[str] | None = None) -> None:
    """Make the figures, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare, and change nothing")
    parser.add_argument("--quick", action="store_true", help="the tables alone")
    asked = parser.parse_args(argv)
    old = [f for f in FIGURES if f.made() != pasted(f.document, f.name)]
    for figure in old:
        print(f"{figure.document} {figure.name}: {'another' if asked.check else 'made again'}")
        if not asked.check:
            paste(figure.document, figure.name, figure.made())
    for drawn in () if asked.quick or asked.check else PICTURES:
        drawn.draw(*drawn.found(), RESULTS / drawn.file)
        print(RESULTS / drawn.file)
    if asked.check and old:
        sys.exit(1)


if __name__ == "__main__":
    main()
