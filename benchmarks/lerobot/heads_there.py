"""LeRobot's side of ``benchmarks.lerobot.heads``; runs in LeRobot's Python.

python -m benchmarks.lerobot.heads_there make FOLDER
python -m benchmarks.lerobot.heads_there measure FOLDER
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.lerobot import small
from benchmarks.lerobot.outside import DITS, turns
from pcm_policy.adopt.multi_task_dit import drawn
from pcm_policy.files import to_json, write_text
from pcm_policy.measure.conditions import hardware
from pcm_policy.policy.policy import DiffusionPolicy

NAMES = ("flow-100",)
INSTRUCTION = "push the"
TRAINED = 240
SEEDS, CALLS = 40, 15
CAMERA, STATE = "observation.images.top", "observation.state"


def identity(policy: Any) -> dict[str, dict[str, Tensor]]:
    """Return statistics that change nothing: the policy was trained without processors."""
    found = {}
    for key, feature in (policy.config.input_features | policy.config.output_features).items():
        one = torch.ones((feature.shape[0], 1, 1) if len(feature.shape) == 3 else feature.shape)
        found[key] = {"min": -one, "max": one, "mean": 0 * one, "std": one}
    return found


def make(folder: Path) -> None:
    """Train the policies, and write them with their processors as LeRobot does."""
    from lerobot.policies.multi_task_dit import processor_multi_task_dit as processors

    for name in NAMES:
        policy = small.make("multi_task_dit", folder / "clip" / name, **DITS[name])
        policy = small.train(policy, TRAINED, frames=2)
        made = processors.make_multi_task_dit_pre_post_processors(policy.config, identity(policy))
        for part in (policy, *made):
            part.save_pretrained(folder / name)


def observed(seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same drawn observation for LeRobot and for ours."""
    g = torch.Generator().manual_seed(seed)
    state = torch.rand(1, 2, small.S, generator=g) * 2 - 1
    size = (1, 2, small.SIDE, small.SIDE, 3)
    image = torch.randint(256, size, generator=g, dtype=torch.uint8)
    theirs = {"task": [INSTRUCTION], STATE: state, CAMERA: image.movedim(-1, -3) / 255}
    return theirs, {"state": state.numpy(), CAMERA: image.numpy()}


class Pair:
    """LeRobot's policy and the distilled one, called with the same observation and noise."""

    def __init__(self, folder: Path, name: str) -> None:
        from lerobot.policies.factory import make_pre_post_processors
        from lerobot.policies.multi_task_dit.modeling_multi_task_dit import MultiTaskDiTPolicy

        self.theirs = MultiTaskDiTPolicy.from_pretrained(folder / name).eval()
        self.before, _ = make_pre_post_processors(
            self.theirs.config, pretrained_path=str(folder / name)
        )
        self.ours = DiffusionPolicy.from_pretrained(folder / f"{name}_pcm/policy")

    def ready(self, seed: int) -> Any:
        """Return what LeRobot's processors make of an observation."""
        return self.theirs._prepare_batch(self.before(observed(seed)[0]))

    @torch.no_grad()
    def encoded(self, ready: Any) -> Tensor:
        """Return what LeRobot's encoders make of an observation, ``(1, C)``."""
        found: Tensor = self.theirs.observation_encoder.encode(ready)
        return found

    @torch.no_grad()
    def loop(self, encoded: Tensor) -> Tensor:
        """Return LeRobot's chunk, normalised; the noise is torch's own generator's."""
        draw: Any = self.theirs.objective.conditional_sample
        found: Tensor = draw(self.theirs.noise_predictor, 1, encoded)
        return found

    def rounds(self, obs: Tensor, solver: Any) -> Tensor:
        """Return our chunk for the noise that LeRobot's loop would draw, normalised."""
        sampler = self.ours.config.sampler
        noisy = self.ours.sampler(sampler).stochastic
        added = [noisy and j < sampler.steps - 1 for j in range(sampler.steps)]
        shape = (1, small.T, small.A)
        noise = drawn(added, torch.empty(shape), torch.float32)
        return self.ours.solve(obs, solver, noise).sample


def seeded(seed: int, call: Callable[[Any], Tensor], given: Any) -> Tensor:
    """Return what a call gives after torch's generator was seeded."""
    torch.manual_seed(seed)
    return call(given)


def measured(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return a row for each number of rounds: error and times, taking turns, eager both."""
    pair = Pair(folder, name)
    ready = [pair.ready(seed) for seed in range(SEEDS)]
    given = [observed(seed)[1] for seed in range(SEEDS)]
    encoded = [pair.encoded(one) for one in ready]
    obs = [pair.ours.observe(one) for one in given]
    own = torch.stack([seeded(seed, pair.loop, encoded[seed]) for seed in range(SEEDS)])
    found = []
    for rounds in (1, 2, 3, 4):
        solver = pair.ours.solver({"method": "pcm", "rounds": rounds})

        def loop(seed: int, solver: Any = solver) -> Tensor:
            return pair.rounds(obs[seed % SEEDS], solver)

        def whole(seed: int, solver: Any = solver) -> Tensor:
            return pair.rounds(pair.ours.observe(given[seed % SEEDS]), solver)

        off = torch.stack([seeded(seed, loop, seed) for seed in range(SEEDS)]) - own
        theirs_ms, ours_ms = turns(
            lambda seed: pair.loop(pair.encoded(ready[seed % SEEDS])), whole, CALLS
        )
        loop_ms, our_loop_ms = turns(lambda seed: pair.loop(encoded[seed % SEEDS]), loop, CALLS)
        found.append(
            {
                "policy": name,
                "solver": solver.label,
                "largest": float(off.abs().max()),
                "rms": float(off.square().mean().sqrt()),
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


def main() -> None:
    """Make the policies, or measure them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["make", "measure"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "make":
        make(given.folder)
        return
    rows = [row for name in NAMES for row in measured(given.folder, name)]
    about = {"python": platform.python_version(), "torch": torch.__version__}
    about |= {"numpy": np.__version__, "trained": TRAINED}
    about |= {"hardware": hardware(torch.device("cpu"))}
    write_text(given.folder / "heads.json", to_json(about | {"rows": rows}))


if __name__ == "__main__":
    main()
