"""The whole main job in a few minutes: check, train, distil, roll out, time; one page at the end.

    python -m pcm_policy.cli.demo [OUTPUT_DIR]

The table is about the released policy; the policy trained here runs for a couple of minutes only
and is shown beside it to prove the path, not to compare.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcm_policy.cli import bench as cli_bench
from pcm_policy.cli import data as cli_data
from pcm_policy.cli import eval as cli_eval
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.files import write_text
from pcm_policy.measure.bench import Bench
from pcm_policy.measure.bench_tables import bench_rows, rounds_rows
from pcm_policy.measure.conditions import said
from pcm_policy.measure.evaluations import evaluations
from pcm_policy.measure.page import embed, html_table, page
from pcm_policy.measure.tables import table

RELEASED_POLICY = "released/pusht_mlp"
DEMONSTRATIONS = "released/pusht_demos"
WHOLE = ("shard=0", "shards=1")
"""All episodes, also in a job of several processes."""
SOLVERS = (
    ("sequential DDPM-100", ("solver=ddpm",)),
    ("sequential DDIM-16", ("solver=ddim", "solver.steps=16")),
    ("few-step DDIM-3", ("solver=ddim", "solver.steps=3")),
    ("Picard, 2 rounds", ("solver=picard", "solver.rounds=2")),
    ("Picard, certified 1e-3", ("solver=picard", "solver.tolerance=1e-3")),
    ("PCM, 2 rounds", ("solver=pcm", "solver.rounds=2")),
)


def main(
    output: Path, *, episodes: int = 50, train_steps: int = 2500, distill_steps: int = 300
) -> None:
    """Run everything and leave ``report.html`` in ``output``."""
    shutil.rmtree(output, ignore_errors=True)
    _say("1/5 Checking the embedded demonstrations")
    cli_data.validate_main(compose("data validate", ["task=pusht", f"path={DEMONSTRATIONS}"]))
    _say("2/5 Training briefly from them")
    here = f"dataset.path={DEMONSTRATIONS}"
    base = cli_train.train_main(
        compose(
            "train",
            ["task=pusht", here, f"output_dir={output}/train", f"train.steps={train_steps}"],
        )
    )
    _say("3/5 Distilling a PCM head briefly")
    brief = cli_train.distill_main(
        compose(
            "distill",
            [
                f"policy={base}",
                here,
                f"output_dir={output}/distill",
                f"train.steps={distill_steps}",
                "train.warmup=50",
            ],
        )
    )
    _say("4/5 Rolling out: released policy, then the one trained just now")
    found = [_evaluate(label, RELEASED_POLICY, flags, output, episodes) for label, flags in SOLVERS]
    name = "trained briefly here: PCM, 2 rounds"
    found.append(_evaluate(name, str(brief), SOLVERS[-1][1], output, episodes))
    head, rows = evaluations(found, [*(label for label, _ in SOLVERS), name])
    _say("5/5 Timing every solver on the released policy")
    bench = cli_bench.bench_main(
        compose(
            "bench",
            [
                f"policy={RELEASED_POLICY}",
                f"output_dir={output}/bench",
                "calls=40",
                "overwrite=true",
            ],
        )
    )
    write_text(output / "report.html", _report(output, head, rows, bench))
    print()
    print(table(head, rows))
    print(f"\n{episodes} Push-T episodes a row, paired seeds and noise. Report:")
    print(output / "report.html")


def _evaluate(
    label: str, policy: str, flags: Sequence[str], output: Path, episodes: int
) -> dict[str, Any]:
    folder = output / "eval" / "".join(c if c.isalnum() else "-" for c in label)
    overrides = [f"policy={policy}", f"output_dir='{folder}'", f"episodes={episodes}", *flags]
    if label == "PCM, 2 rounds":
        overrides += ["video_episodes=[0,1,2]"]
    result: dict[str, Any] = cli_eval.eval_main(
        compose("eval", [*overrides, *WHOLE, "latency_calls=60", "overwrite=true"])
    )
    return result


def _report(output: Path, head: list[str], rows: list[list[str]], bench: Bench) -> str:
    """Return the page; the last row is of the policy that was trained here."""
    films = sorted(output.glob("eval/*/videos/*.mp4"))
    where = f"{said(bench.facts)}, batch 1"
    return page(
        "pcm_policy: a diffusion policy in two parallel rounds",
        [
            (
                "Closed loop on Push-T",
                html_table(head, rows[:-1])
                + f"<p>Time is one prediction on {where}. Below: the policy that this demo trained "
                "for a minute or two, to show the path, not to compete.</p>"
                + html_table(head, rows[-1:]),
            ),
            ("Two PCM rounds at work", " ".join(embed(film) for film in films)),
            ("Latency, and distance to the sequential chunk", embed(output / "bench/bench.png")),
            (
                "All solvers on the same weights",
                html_table(*bench_rows(bench)) + html_table(*rounds_rows(bench)),
            ),
        ],
    )


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo"))
