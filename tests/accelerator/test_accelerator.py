"""Solves, training steps and moves on the simulated device, which no real GPU was compared with.

Each of ``grid.checks()`` is a line of one process of its own (see ``device.py``); tests are parts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEAST = {
    **{"solve mlp": 100, "solve unet1d": 25, "solve transformer": 25, "solve dit": 25},
    **{"policy": 10, "train": 12, "cameras": 1},
}
"""The parts, and how many checks each has at least."""

MISTAKES = {
    "mixes": "gpu.empty((2,), torch.float32) + torch.zeros(2)",
    "reads": "gpu.empty((2,), torch.float32).sum().item()",
    "branches": "bool(gpu.empty((), torch.float32) > 0)",
    "sizes": "gpu.empty((2,), torch.float32).nonzero()",
    "fetches": "gpu.empty((2,), torch.float32).cpu()",
    "makes": "torch.tensor([1, 2], device=DEVICE)",
    "moves": "torch.zeros(2).to(DEVICE)",
    "fills": "gpu.empty((2,), torch.float32).copy_(torch.zeros(2))",
    "indexes": "gpu.empty((2,), torch.float32)[torch.tensor([0])]",
}
FINE = {
    "scalars": "torch.where(gpu.empty((2,), torch.float32) > 0, 1.0, 0.0) * 2 + torch.tensor(3.0)",
    "arange": "gpu.empty((4,), torch.float32)[torch.arange(2, device=DEVICE)]",
    "views": "gpu.empty((4,), torch.float32).view(2, 2)[0].add_(1)",
    "hosts": "torch.zeros(3).sum().item()",
}


def python(*words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def checked() -> dict[str, str]:
    """What every check says, nothing where all is well."""
    done = python("-m", "tests.accelerator.grid")
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_every_check_is_of_one_part(checked: dict[str, str]) -> None:
    for name in checked:
        assert sum(name == part or name.startswith(f"{part} ") for part in LEAST) == 1, name


@pytest.mark.parametrize("part", LEAST)
def test_nothing_stalls_the_device(checked: dict[str, str], part: str) -> None:
    found = {name: said for name, said in checked.items() if name.startswith(part)}
    assert len(found) >= LEAST[part]
    assert {name: said for name, said in found.items() if said} == {}


def test_the_simulated_device_finds_each_mistake() -> None:
    """Under a strict block each mistake raises, and none of what is fine."""
    program = f"""
import torch
from tests.accelerator.device import DEVICE, Stall, accelerator
with accelerator() as gpu, torch.inference_mode():
    for name, code in {MISTAKES!r}.items():
        eval(code)  # fine where all is allowed
        try:
            with gpu.allow():
                eval(code)
        except Stall as error:
            print(name)
    with gpu.allow():
        for code in {FINE!r}.values():
            eval(code)
"""
    program = program.replace("eval(code)  # fine", 'name == "mixes" or eval(code)  # fine')
    done = python("-c", program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(MISTAKES)
