"""Make a released Push-T policy again: every command, one after another, in one folder.

    python -m benchmarks.release pusht      pusht_cchi_v7_replay.zarr OUTPUT [key=value ...]
    python -m benchmarks.release pusht_mlp  pusht_cchi_v7_replay.zarr OUTPUT [key=value ...]

What is finished is not done again, and what was cut off goes on; overrides such as
``train.steps=100`` go to all trainings. ``--list`` prints the commands and runs nothing.
"""

import argparse
import shlex
from pathlib import Path

import torch

from pcm_policy.cli import data as cli_data
from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose
from pcm_policy.policy.places import RELEASED

GENERATE = "data generate"
RUN = {
    "train": cli_train.train_main,
    "distill": cli_train.distill_main,
    GENERATE: cli_data.generate_main,
}
Stage = tuple[str, str, tuple[str, ...]]
"""Folder, command, overrides; ``{folder}`` is the output of an earlier stage."""

HALF = "weights=float16"
ROLLED = (
    "policy={base}",
    "episodes=400",
    "seed=1000000",
    "failures=true",
    "solver=dpmpp",
    "solver.steps=4",
)
"""What the base meets when it acts; a head is trained there too."""
ROUNDS = ("policy={head}", "failures=true", "solver=pcm")
"""What a first head meets when it acts, where the second one is trained."""
NARROW = ("head.options.nodes=6", "head.options.guess_noises=1")
"""A head that adds little to the U-Net's file."""
WIDE = (*NARROW, "head.options.width=128", "head.options.guess_width=448")
"""One whose first guess is large, for a file below 15 MB."""
HEAD = ("policy={base}", "dataset.more=[{rollouts.zarr}]", HALF)
UNET = ("network=unet1d", "train.batch=128")
SHARP = ("policy.sampler.steps=32", "policy.sampler.eta=1", "policy.sampler.temperature=0.1")
"""Noise in every step, but little of it: chunks near the mode of what the policy learnt."""
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
                *SHARP,
                HALF,
            ),
        ),
        ("rollouts.zarr", GENERATE, (*ROLLED, "solver.temperature=0.6")),
        ("head", "distill", (*HEAD, "train.steps=3000", *NARROW)),
        ("two.zarr", GENERATE, (*ROUNDS, "episodes=300", "seed=2000000", "solver.rounds=2")),
        ("one.zarr", GENERATE, (*ROUNDS, "episodes=600", "seed=3000000", "solver.rounds=1")),
        (
            "pcm",
            "distill",
            (
                "policy={base}",
                "dataset.more=[{rollouts.zarr},{two.zarr},{one.zarr}]",
                HALF,
                *WIDE,
                "distill.reuse=48",
                "train.steps=5000",
                "train.lr=0.004",
            ),
        ),
    ),
    "pusht_mlp": (
        ("base", "train", (HALF,)),
        ("rollouts.zarr", GENERATE, ROLLED),
        ("pcm", "distill", HEAD),
    ),
}


def _filled(word: str, made: dict[str, Path]) -> str:
    for folder, path in made.items():
        word = word.replace(f"{{{folder}}}", str(path))
    return word


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
    made: dict[str, Path] = {}
    for folder, command, words in RECIPES[options.name]:
        output = options.output / folder
        made[folder] = output if command == GENERATE else output / "policy"
        given = [_filled(word, made) for word in words] + ["threads=1"]
        if command == GENERATE:
            given = [f"path={output}", *given]
        else:
            given += [f"dataset.path={options.data}", f"output_dir={output}", *options.overrides]
        if options.list:
            print(f"pcm-{command} {shlex.join(given)}")
        elif not made[folder].exists():
            if command != GENERATE:
                given.append(f"resume={str((output / 'checkpoints').exists()).lower()}")
            RUN[command](compose(command, given))
    print(made["pcm"])


if __name__ == "__main__":
    main()
