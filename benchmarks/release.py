"""Make a released Push-T policy again: every command, one after another, in one folder.

    python benchmarks/release.py pusht      pusht_cchi_v7_replay.zarr OUTPUT [key=value ...]
    python benchmarks/release.py pusht_mlp  pusht_cchi_v7_replay.zarr OUTPUT [key=value ...]

What is finished is not done again, and a training that was cut off goes on; overrides such as
``train.steps=100`` go to all commands. ``--list`` prints the commands and runs nothing.
"""

import argparse
import shlex
from pathlib import Path

import torch

from pcm_policy import cli_train
from pcm_policy.checkpoint import RELEASED
from pcm_policy.commands import compose

Stage = tuple[str, str, tuple[str, ...]]
"""Folder, command, overrides; ``{folder}`` is the output of an earlier stage."""

HALF = "weights=float16"
UNET = ("network=unet1d", "train.batch=128")
RECIPES: dict[str, tuple[Stage, ...]] = {
    "pusht": (
        ("first", "train", (*UNET, "train.steps=10000", "train.lr=0.0006", "train.ema=0.999")),
        (
            "base",
            "train",
            (
                *UNET,
                "init={first}",
                "train.steps=12000",
                "train.lr=0.0005",
                "train.ema=0.9995",
                "train.seed=1",
                "task.action_steps=10",
                HALF,
            ),
        ),
        (
            "pcm",
            "distill",
            (
                "policy={base}",
                "train.steps=3000",
                "head.options.width=160",
                "head.options.cond_width=96",
                HALF,
            ),
        ),
    ),
    "pusht_mlp": (("base", "train", (HALF,)), ("pcm", "distill", ("policy={base}", HALF))),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("name", choices=RECIPES, help=f"as in {RELEASED.name}/")
    parser.add_argument("data", help="the human demonstrations")
    parser.add_argument("output", type=Path)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("overrides", nargs="*", help="of all trainings, such as train.steps=100")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = {folder: options.output / folder / "policy" for folder, _, _ in RECIPES[options.name]}
    for folder, command, words in RECIPES[options.name]:
        output = options.output / folder
        given = [f"dataset.path={options.data}", f"output_dir={output}", "threads=1"]
        given += [word.format(**made) for word in words] + options.overrides
        if options.list:
            print(f"pcm-{command} {shlex.join(given)}")
        elif not made[folder].exists():
            again = f"resume={str((output / 'checkpoints').exists()).lower()}"
            run = cli_train.train_main if command == "train" else cli_train.distill_main
            run(compose(command, [*given, again]))
    print(made["pcm"])


if __name__ == "__main__":
    main()
