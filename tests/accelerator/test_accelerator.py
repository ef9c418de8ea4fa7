"""Solves, training steps and moves on the simulated device, which no real GPU was compared with.

Each of ``grid.checks()`` is a line of a process of its own (see ``device.py``), split in parts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("solve mlp", "solve unet1d", "solve transformer", "policy", "train", "cameras")
LEAST = {"solve mlp": 100, "solve unet1d": 25, "solve transformer": 25, "train": 12, "policy": 10}

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


@pytest.mark.parametrize("part", PARTS)
def test_nothing_stalls_the_device(part: str) -> None:
    done = python("-m", "tests.accelerator.grid", *part.split())
    assert done.returncode == 0, done.stderr[-2000:]
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert len(found) >= LEAST.get(part, 1)
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
