"""Rounds and times of LeRobot's policies solved from outside.

    python -m benchmarks.lerobot.outside rounds rounds.json --lerobot PYTHON
    python -m benchmarks.lerobot.outside speed speed.json --lerobot PYTHON

PYTHON has ``lerobot[smolvla,pi,multi_task_dit]==0.6.1``; it runs this file. Policies are small and
trained here on a toy task (``small.py``): rounds and errors say that the method works, not how
many rounds pretrained weights need. Times are CPU seconds of one thread, LeRobot's loop and the
solve taking turns, eager both.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.lerobot import small
from pcm_policy.adopt.parallel import parallel
from pcm_policy.adopt.seam import Seam
from pcm_policy.measure.conditions import hardware
from pcm_policy.solvers import Rounds, SolveResult
from pcm_policy.solvers.loop import collect, rounds
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.system import Iterate, System

ROUNDS = {
    "picard": {"method": "picard"},
    "anderson": {"method": "anderson"},
    "newton": {"method": "newton"},
    "coarse": {"method": "coarse"},
}
DITS: dict[str, dict[str, Any]] = {
    "ddpm-100": {},
    "ddim-100": {"noise_scheduler_type": "DDIM"},
    "flow-100": {"objective": "flow_matching"},
}
SHARES = [0.05, 0.1, 0.2]
BOTH = [
    *({"method": "picard", "rounds": n} for n in (8, 10, 12)),
    *({"method": "anderson", "rounds": n} for n in (6, 7, 8, 10)),
    *({"method": "newton", "rounds": n} for n in (4, 5, 6, 7)),
    *({"method": "coarse", "shares": SHARES, "rounds": n} for n in (5, 6, 7, 8)),
    {"method": "picard", "tolerance": 1e-2},
    {"method": "anderson", "tolerance": 1e-2},
    {"method": "newton", "tolerance": 1e-2},
]  # fmt: skip
FEW = {
    "ddpm-100": [("ddpm", n) for n in (10, 20, 50)],
    "ddim-100": [(name, n) for name in ("ddim", "dpmpp_2m") for n in (6, 7, 8, 9, 10, 12, 15, 20)],
    "flow-100": [
        (name, n)
        for name in ("flow_euler", "flow_2m", "flow_adams")
        for n in (6, 7, 8, 9, 10, 11, 12, 16, 20)
    ],
}


@dataclass(frozen=True)
class Walk(Solver):
    """A solver that keeps the chunk of every round."""

    def __call__(self, s: System, x: Iterate) -> SolveResult:
        """Solve, and leave the chunks in :data:`SEEN`."""
        SEEN.clear()

        def kept() -> Any:
            for made in rounds(s, x, self.step, self.stop):
                SEEN.append(made[1].X[-1].clone())
                yield made

        return collect(kept(), self.stop)


SEEN: list[Tensor] = []


class Case:
    """A policy, and chunks of it for observations and noise that a seed names."""

    def __init__(self, kind: str, policy: Any) -> None:
        self.policy, self.dit = policy, kind.startswith("multi")

    def chunk(self, batch: int, seed: int) -> Tensor:
        """Return a chunk ``(B, T, A)``, normalised, of a whole call of the policy."""
        torch.manual_seed(seed)
        if not self.dit:
            noise = torch.randn(batch, small.T, 8)
            return self.policy.predict_action_chunk(small.observed(batch, seed), noise=noise)
        return self.loop(self.encoded(batch, seed))

    @torch.no_grad()
    def encoded(self, batch: int, seed: int) -> Tensor:
        """Return what the encoders of a multi_task_dit make of an observation, ``(B, C)``."""
        seen = self.policy._prepare_batch(small.observed(batch, seed, 2))
        found: Tensor = self.policy.observation_encoder.encode(seen)
        return found

    @torch.no_grad()
    def loop(self, encoded: Tensor) -> Tensor:
        """Return a chunk of the loop alone; the noise is torch's own generator's."""
        draw: Any = self.policy.objective.conditional_sample
        found: Tensor = draw(self.policy.noise_predictor, len(encoded), encoded)
        return found


def rounds_of(case: Case, name: str, steps: int, batch: int = 4, seed: int = 7) -> list[Any]:
    """Return a row for each solver: rounds until the true error is small, and until certified."""
    own, found = case.chunk(batch, seed), []
    for label, settings in ROUNDS.items():
        with parallel(case.policy, settings) as seam:
            free = seam.solver
            seam.solver = Walk(free.step, Rounds(min(steps, 16)), free.sampler)
            case.chunk(batch, seed)
            width = own.shape[2]
            errors = [float((x[..., :width] - own).abs().max()) for x in SEEN]
            seam.solver = free  # tolerance 1e-3
            ours = case.chunk(batch, seed)
            assert seam.last is not None
            found.append(
                {
                    "policy": name,
                    "calls": steps,
                    "solver": label,
                    "rounds_to": {
                        f"{e:g}": next((i + 1 for i, x in enumerate(errors) if x <= e), None)
                        for e in (1e-1, 1e-2, 1e-3)
                    },
                    "certified_1e-3": seam.last.rounds,
                    "certified_rows": int(seam.last.certified.sum()),
                    "rows": batch,
                    "nfe": seam.last.nfe,
                    "error": float((ours - own).abs().max()),
                }
            )
            print(found[-1], flush=True)
    return found


def turns(first: Callable[[int], Any], second: Callable[[int], Any], calls: int) -> list[float]:
    """Return both median CPU times of a call, in ms; they take turns."""
    spent: tuple[list[float], list[float]] = [], []
    for seed in range(calls + 1):
        for side, call in zip(spent, (first, second), strict=True):
            start = time.thread_time()
            call(seed)
            side.append(1e3 * (time.thread_time() - start))
    return [statistics.median(side[1:]) for side in spent]  # the first is a warm-up


def errors_of(case: Case, settings: dict[str, Any], own: list[Tensor]) -> tuple[float, float, Seam]:
    """Return largest and root mean square error over the seeds, one row each."""
    with parallel(case.policy, settings) as seam:
        off = torch.stack([case.chunk(1, seed) - x for seed, x in enumerate(own)])
    return float(off.abs().max()), float(off.square().mean().sqrt()), seam


def speeds(case: Case, name: str, seeds: int = 40, calls: int = 15) -> list[dict[str, Any]]:
    """Return a row for each solver whose largest error is at most 0.1: errors and times."""
    own, found = [case.chunk(1, seed) for seed in range(seeds)], []
    few = [{"method": "sequential", "sampler": s, "steps": n} for s, n in FEW[name]]
    encoded = case.encoded(1, 0)
    for settings in [*few, *BOTH]:
        largest, rms, seam = errors_of(case, settings, own)
        if largest > 0.1:
            continue

        def inside(call: Callable[[Any], Any], seam: Seam = seam) -> Callable[[Any], None]:
            def ours(given: Any) -> None:
                with seam:
                    call(given)

            return ours

        def whole(seed: int) -> Tensor:
            return case.chunk(1, seed)

        def loop(_: int) -> Tensor:
            return case.loop(encoded)

        theirs_ms, ours_ms = turns(whole, inside(whole), calls)
        loop_ms, our_loop_ms = turns(loop, inside(loop), calls)
        assert seam.last is not None
        found.append(
            {
                "policy": name,
                "solver": seam.solver.label,
                "rounds": seam.last.rounds,
                "nfe": seam.last.nfe,
                "largest": largest,
                "rms": rms,
                "lerobot_ms": theirs_ms,
                "ours_ms": ours_ms,
                "faster": theirs_ms / ours_ms,
                "lerobot_loop_ms": loop_ms,
                "our_loop_ms": our_loop_ms,
                "loop_faster": loop_ms / our_loop_ms,
            }
        )
        print(found[-1], flush=True)
    return found


def there(python: str, module: str, given: list[str]) -> None:
    """Run a module of this package by LeRobot's Python."""
    root = Path(__file__).parents[2]
    with tempfile.TemporaryDirectory() as folder:  # the checkout's `datasets` would hide another
        for name in ("pcm_policy", "benchmarks"):
            (Path(folder) / name).symlink_to(root / name)
        environment = os.environ | {"PYTHONPATH": folder, "HF_HUB_OFFLINE": "1"}
        subprocess.run([python, "-m", module, *given], check=True, cwd=folder, env=environment)


def dits(folder: Path, steps: int) -> Iterator[tuple[str, Case]]:
    """Yield trained multi_task_dit policies, by their loops."""
    for name, settings in DITS.items():
        policy = small.make("multi_task_dit", folder / name, **settings)
        yield name, Case("multi_task_dit", small.train(policy, steps, frames=2))


def all_rounds(folder: Path, steps: int, dit_steps: int) -> list[dict[str, Any]]:
    """Train all policies and count rounds."""
    found = []
    for kind in small.KINDS[:3]:
        policy = small.train(small.make(kind, folder / kind), steps)
        setting = "num_steps" if kind == "smolvla" else "num_inference_steps"
        for count in (10, 50):
            setattr(policy.config, setting, count)
            found += rounds_of(Case(kind, policy), kind, count)
    for name, case in dits(folder, dit_steps):
        found += rounds_of(case, f"multi_task_dit {name}", 100)
    return found


def all_speeds(folder: Path, dit_steps: int) -> list[dict[str, Any]]:
    """Train multi_task_dit policies and time them."""
    return [row for name, case in dits(folder, dit_steps) for row in speeds(case, name)]


def main() -> None:
    """Measure here, or there, and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["rounds", "speed"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--lerobot", help="LeRobot's Python; left out: this one")
    parser.add_argument("--steps", type=int, default=120, help="training steps of a VLA")
    parser.add_argument("--dit-steps", type=int, default=240, help="of a multi_task_dit")
    given = parser.parse_args()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    if given.lerobot is not None:
        words = [given.what, str(given.output.resolve()), "--steps", str(given.steps)]
        words += ["--dit-steps", str(given.dit_steps)]
        there(given.lerobot, "benchmarks.lerobot.outside", words)
        return
    torch.set_num_threads(1)
    found: dict[str, Any] = {"steps": given.steps, "dit_steps": given.dit_steps}
    found |= {"python": platform.python_version(), "torch": torch.__version__}
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "rounds":
            found["rounds"] = all_rounds(Path(folder), given.steps, given.dit_steps)
        else:
            found["hardware"] = hardware(torch.device("cpu"))
            found["speed"] = all_speeds(Path(folder), given.dit_steps)
    given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
