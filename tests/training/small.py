"""Small runs of pcm-train and pcm-distill, and what they leave."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pcm_policy.cli import train as cli_train
from pcm_policy.cli.compose import compose

TRAIN = [
    *("task=pusht", "network.options.width=16", "network.options.depth=1", "device=cpu"),
    *("threads=1", "train.batch=8", "train.warmup=2", "train.log_every=2"),
]
DISTILL = [
    *("head.options.width=16", "head.options.guess_width=16", "device=cpu", "threads=1"),
    *("train.batch=8", "train.warmup=2", "train.log_every=2", "distill.pool=16"),
    *("distill.guess_batch=8", "distill.reuse=4", "distill.guess_reuse=4"),
]


def train(demos: Path, output: Path, *more: str) -> Path:
    words = [*TRAIN, f"dataset.path={demos}", f"output_dir={output}", *more]
    return cli_train.train_main(compose("train", words))


def distill(base: Path, demos: Path, output: Path, *more: str) -> Path:
    words = [*DISTILL, f"policy={base}", f"dataset.path={demos}", f"output_dir={output}", *more]
    return cli_train.distill_main(compose("distill", words))


def weights(policy: Path) -> dict[str, torch.Tensor]:
    return load_file(policy / "model.safetensors")


def assert_same(one: Path, two: Path, tolerance: float = 0.0) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        same = value.equal(second[name])  # infinite limits too
        assert same or (value - second[name]).abs().max() <= tolerance, name


def lines(output: Path) -> list[dict[str, Any]]:
    """Lines of ``metrics.jsonl``, each of them JSON as the standard has it."""

    def refuse(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    text = (output / "metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def steps(output: Path) -> list[int]:
    """Steps of the checkpoints that are kept."""
    return [int(folder.name[5:]) for folder in sorted((output / "checkpoints").glob("step-*"))]


def forget(output: Path, after: int) -> None:
    """Remove the checkpoints after a step, as if the run had been killed before them."""
    import shutil

    for folder in (output / "checkpoints").glob("step-*"):
        if int(folder.name[5:]) > after:
            shutil.rmtree(folder)
