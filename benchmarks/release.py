"""Make the released Push-T policy again: every command, one after another, in one folder.

    python benchmarks/release.py pusht_cchi_v7_replay.zarr OUTPUT

1. ``first``: a base policy on the human demonstrations.
2. ``own.zarr``: its own successful episodes, from seeds that nothing is evaluated on. Human
   demonstrations of Push-T end just before the goal is reached; these end on it.
3. ``base``: a base policy on both, trained to go on from known prefixes.
4. ``pcm``: a PCM head for it.

What is finished is not done again, and a training that was cut off goes on. About an hour and a
half on one core of an AMD EPYC.
"""

import argparse
from pathlib import Path

import torch

from pcm_policy import cli
from pcm_policy.commands import compose

SEED = 2_000_000


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", help="the human demonstrations")
    parser.add_argument("output", type=Path)
    parser.add_argument("--episodes", type=int, default=1000, help="own successful ones")
    parser.add_argument("overrides", nargs="*", help="of all trainings, such as train.steps=100")
    options = parser.parse_args()
    torch.set_num_threads(1)
    first, own, base, pcm = (options.output / n for n in ("first", "own.zarr", "base", "pcm"))
    data = [f"dataset.path={options.data}"]

    def run(output: Path) -> list[str]:
        resume = (output / "checkpoints").exists()
        return [f"output_dir={output}", f"resume={str(resume).lower()}", *options.overrides]

    if not (first / "policy").exists():
        cli.train_main(compose("train", [*data, "task.prefix_steps=0", *run(first)]))
    if not own.exists():
        words = ["command=generate", f"path={own}", f"policy={first / 'policy'}"]
        words += [f"episodes={options.episodes}", f"attempts={5 * options.episodes}"]
        words += [f"seed={SEED}", "solver=ddim", "solver.spacing=leading"]
        cli.data_main(compose("data", words))
    if not (base / "policy").exists():
        cli.train_main(compose("train", [*data, f"dataset.more=[{own}]", *run(base)]))
    if not (pcm / "policy").exists():
        words = [f"policy={base / 'policy'}", f"dataset.more=[{own}]"]
        cli.distill_main(compose("distill", [*data, *words, *run(pcm)]))
    print(pcm / "policy")


if __name__ == "__main__":
    main()
