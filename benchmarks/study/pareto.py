"""Time against error and against score: which rows of the study nobody beats in both."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.study.show import COLOURS
from pcm_policy.measure.pictures import new_figure, save_figure


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of ``(time, loss)`` points, both to be small, that no other dominates.

    In order of time; of equal points the first.
    """
    order = sorted(range(len(points)), key=lambda i: points[i])
    best, kept = float("inf"), []
    for i in order:
        if points[i][1] < best:
            best = points[i][1]
            kept.append(i)
    return kept


def fronts(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the names of the rows on both fronts, fastest first."""
    times = [row["ms"]["p50"] for row in rows]
    error = front([(t, row["rmse"]) for t, row in zip(times, rows, strict=True)])
    score = front([(t, -row["score"]["mean"]) for t, row in zip(times, rows, strict=True)])
    return {
        "time and error": [rows[i]["name"] for i in error],
        "time and score": [rows[i]["name"] for i in score],
    }


def picture(report: Mapping[str, Any], file: Path) -> None:
    """Draw both fronts."""
    from matplotlib import ticker

    rows, best = report["rows"], fronts(report["rows"])
    figure = new_figure(13, 5)
    axes = figure.subplots(1, 2)
    for axis, (title, names) in zip(axes, best.items(), strict=True):
        score = title.endswith("score")

        def value(row: Mapping[str, Any], score: bool = score) -> float:
            return float(row["score"]["mean"] if score else max(row["rmse"], 1e-5))

        for row in rows:
            colour = COLOURS.get(row["family"], "k")
            axis.plot(row["ms"]["p50"], value(row), "o", ms=5, color=colour)
            axis.annotate(
                row["name"],
                (row["ms"]["p50"], value(row)),
                fontsize=6,
                xytext=(3, 3),
                textcoords="offset points",
            )
        chosen = [row for name in names for row in rows if row["name"] == name]
        axis.step(
            [row["ms"]["p50"] for row in chosen],
            [value(row) for row in chosen],
            "k-",
            lw=0.8,
            where="post",
        )
        axis.set_xscale("log")
        axis.xaxis.set_minor_formatter(ticker.NullFormatter())
        axis.set_xlabel("time per chunk, p50 [ms]")
    axes[0].set_yscale("log")
    axes[0].set_ylabel(f"mean RMSE to the {report['base']} chunk")
    axes[1].set_ylabel(f"score, {report['episodes']} episodes")
    machine = report["hardware"]
    figure.suptitle(f"{machine['device']}, {machine['threads']} threads, batch 1", fontsize=9)
    save_figure(figure, file)
