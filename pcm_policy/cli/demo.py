"""The whole main job in a few minutes: check, train, distil, roll out, time; one page at the end.

    python -m pcm_policy.cli.demo [OUTPUT_DIR]

The table is about the released policy in the fastest engine that is installed; the policy trained
here learns for a minute only and is shown beside it to prove the path, not to compare.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
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
from pcm_policy.measure.page import captioned, embed, html_table, page
from pcm_policy.measure.pictures import success_picture
from pcm_policy.measure.tables import table

RELEASED_POLICY = "released/pusht"
DEMONSTRATIONS = "released/pusht_demos"
WHOLE = ("shard=0", "shards=1")
"""All episodes, also in a job of several processes."""
BASE, ONE, TWO = "its base: 32 steps in sequence", "PCM, 1 round", "PCM, 2 rounds"
FEW = ("solver.steps=4", "solver.timesteps=[96,65,25,6]", "solver.temperature=0.6")
"""The best few steps that benchmarks.study.pcm found for this policy."""
ROWS = (
    (BASE, ("solver.method=sequential",)),
    ("few-step DPM-Solver++, 4 calls", ("solver=dpmpp", *FEW)),
    (ONE, ("solver=pcm", "solver.rounds=1")),
    (TWO, ("solver=pcm", "solver.rounds=2")),
)
ENGINES = {"openvino": "openvino", "onnxruntime": "onnx"}
"""Engines by the package that they need, the faster one first."""


def main(
    output: Path, *, episodes: int = 30, train_steps: int = 1000, distill_steps: int = 150
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
    mode = next((mode for name, mode in ENGINES.items() if find_spec(name)), "eager")
    _say(f"4/5 Rolling out, solves executed by {mode}: the released policy, then the one made here")
    found = [
        _evaluate(name, RELEASED_POLICY, flags, mode, output, episodes) for name, flags in ROWS
    ]
    made = "trained briefly here: PCM, 2 rounds"
    found.append(_evaluate(made, str(brief), ROWS[-1][1], mode, output, episodes))
    names = [name for name, _ in ROWS]
    head, rows = evaluations(found, [*names, made])
    success_picture(found[:-1], names, output / "success.png")
    _say("5/5 Timing solvers on the released policy")
    bench = cli_bench.bench_main(
        compose(
            "bench",
            [
                f"policy={RELEASED_POLICY}",
                f"output_dir={output}/bench",
                "methods=[picard,pcm,adaptive]",
                "observations=8",
                "calls=5",
                "overwrite=true",
            ],
        )
    )
    write_text(output / "report.html", _report(output, head, rows, found[0], bench))
    print()
    print(table(head, rows))
    print(f"\n{episodes} Push-T episodes a row, paired seeds and noise. Report:")
    print(output / "report.html")


def _evaluate(
    name: str, policy: str, flags: Sequence[str], mode: str, output: Path, episodes: int
) -> dict[str, Any]:
    overrides = [f"policy={policy}", f"output_dir={_folder(output, name)}", f"episodes={episodes}"]
    overrides += ["video_episodes=[0,1]"] if name in (BASE, ONE) else []
    result: dict[str, Any] = cli_eval.eval_main(
        compose(
            "eval",
            [
                *overrides,
                *flags,
                *WHOLE,
                f"runtime.mode={mode}",
                "solve_batch=1",
                "latency_calls=60",
                "overwrite=true",
            ],
        )
    )
    return result


def _folder(output: Path, name: str) -> Path:
    return output / "eval" / "".join(c if c.isalnum() else "-" for c in name)


def _report(
    output: Path, head: list[str], rows: list[list[str]], one: Mapping[str, Any], bench: Bench
) -> str:
    """Return the page; the last row is of the policy that was trained here, ``one`` the first."""
    films = {name: sorted(_folder(output, name).glob("videos/*.mp4")) for name in (BASE, ONE)}
    pairs = [
        f"<div>{captioned(base, BASE)}{captioned(ours, ONE)}</div>"
        for base, ours in zip(films[BASE], films[ONE], strict=True)
    ]
    return page(
        "pcm_policy: a diffusion policy in one or two parallel rounds",
        [
            (
                "Success against time",
                embed(output / "success.png")
                + html_table(head, rows[:-1])
                + f"<p>{len(one['episodes'])} episodes of Push-T a row, paired seeds and noise. "
                f"Time is one prediction on {said(one)}, batch 1. Below: the policy that this demo "
                "trained for a minute, to show the path, not to compete.</p>"
                + html_table(head, rows[-1:]),
            ),
            ("The same episodes: the base beside one round", "".join(pairs)),
            (
                "In eager execution: latency, and distance to the chunk of the same sampler in "
                "sequence",
                embed(output / "bench/bench.png"),
            ),
            ("Solvers on the same weights", html_table(*bench_rows(bench))),
            ("Rounds", html_table(*rounds_rows(bench))),
        ],
    )


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/demo"))
