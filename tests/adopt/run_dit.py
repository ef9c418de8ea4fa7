"""LeRobot's own multi_task_dit policies, imported, beside LeRobot's chunks; runs in its Python.

python run_dit.py FOLDER SMALL -> one line of JSON for each case

SMALL is ``benchmarks/lerobot``, whose ``small.py`` makes the policies.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(sys.argv[2])

import small
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.multi_task_dit.processor_multi_task_dit import (
    make_multi_task_dit_pre_post_processors,
)

from pcm_policy.adopt import Language, read
from pcm_policy.adopt.multi_task_dit import drawn
from pcm_policy.adopt.original import self_check

INSTRUCTION = "Push the T-block, it's 3 cm."
STATE = {"observation.state": PolicyFeature(FeatureType.STATE, (small.S,))}
EXTRA = {"observation.effort": PolicyFeature(FeatureType.STATE, (2,))}
TWO = {f"observation.images.{k}": PolicyFeature(FeatureType.VISUAL, (3, 40, 48)) for k in "ba"}
CASES: dict[str, dict[str, Any]] = {
    "ddpm": {"num_train_timesteps": 100},
    "ddim state alone": {"noise_scheduler_type": "DDIM", "num_inference_steps": 20}
    | {"prediction_type": "sample", "use_rope": False, "use_positional_encoding": True}
    | {"input_features": STATE | EXTRA},
    "flow two encoders": {"objective": "flow_matching", "num_integration_steps": 50}
    | {"input_features": STATE | TWO, "use_separate_rgb_encoder_per_camera": True}
    | {"image_resize_shape": (36, 36), "image_crop_shape": (32, 32), "sigma_min": 0.1},
    "flow one encoder": {"objective": "flow_matching", "num_integration_steps": 20}
    | {"input_features": STATE | TWO, "image_crop_shape": (32, 32), "horizon": 12},
}
SOLVERS: dict[str, dict[str, Any]] = {
    "sequential": {"method": "sequential"},
    "picard": {"method": "picard", "tolerance": 1e-6},
    "anderson": {"method": "anderson", "tolerance": 1e-6},
    "newton": {"method": "newton", "tolerance": 1e-6},
    "coarse": {"method": "coarse", "tolerance": 1e-6},
}


def saved(folder: Path, name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Write a policy with its processors; return it and what comes before it."""
    policy = small.make("multi_task_dit", folder, **settings)
    if name == "ddpm":
        policy = small.train(policy, 20, 2)
    g = torch.Generator().manual_seed(0)
    stats = {}
    for key, feature in (policy.config.input_features | policy.config.output_features).items():
        shape = (feature.shape[0], 1, 1) if len(feature.shape) == 3 else feature.shape
        low, spread = torch.rand(shape, generator=g) - 0.5, 0.5 + torch.rand(shape, generator=g)
        stats[key] = {"min": low, "max": low + spread, "mean": low + 0.5, "std": spread}
    before, after = make_multi_task_dit_pre_post_processors(policy.config, stats)
    for part in (policy, before, after):
        part.save_pretrained(folder / "checkpoints/000020/pretrained_model")
    return policy, before


def observed(policy: Any, batch: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the same observations for LeRobot and for ours."""
    g = torch.Generator().manual_seed(batch)
    state = torch.rand(batch, 2, small.S, generator=g) - 0.5
    sizes = {k: v.shape[1:] for k, v in policy.config.image_features.items()}
    images = {
        k: torch.randint(256, (batch, 2, *size, 3), generator=g, dtype=torch.uint8)
        for k, size in sizes.items()
    }
    told: dict[str, Any] = {"task": [INSTRUCTION] * batch, "observation.state": state}
    theirs = told | {k: v.movedim(-1, -3) / 255 for k, v in images.items()}
    given = {k: v.numpy() for k, v in images.items()}
    return theirs, {"state": state.numpy()} | given if images else state.numpy()


def compared(folder: Path, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return how far imported chunks are from LeRobot's, float32, and what the self-check finds."""
    policy, before = saved(folder, name, settings)
    imported = read(folder, Language(INSTRUCTION))
    ours = imported.policy()
    found: dict[str, Any] = {"notes": list(imported.notes)}
    for batch in (1, 3):
        theirs, given = observed(policy, batch)
        torch.manual_seed(batch)
        with torch.no_grad():
            ready = policy._prepare_batch(before(theirs))
            condition = policy.observation_encoder.encode(ready)
            objective, network = policy.objective, policy.noise_predictor
            chunk = objective.conditional_sample(network, batch, condition)
        torch.manual_seed(batch)
        steps = ours.config.sampler.steps
        stochastic = ours.sampler(ours.config.sampler).stochastic
        added = [stochastic and j < steps - 1 for j in range(steps)]
        noise = drawn(added, torch.empty(chunk.shape), torch.float32)
        ours.calibrate(ours.observe(given), ours.config.sampler)
        for label, solver in SOLVERS.items():
            solve = ours.predict(given, solver=ours.solver(solver), noise=noise).solve
            found[f"{label} {batch}"] = float((solve.sample - chunk).abs().max()), solve.rounds
    checks = [self_check(imported, batch=batch) for batch in (1, 3)]
    found["checks"] = [one if isinstance(one, str) else asdict(one) for one in checks]
    return found


def main(folder: Path) -> None:
    """Make and compare every case."""
    torch.set_num_threads(1)
    for name, settings in CASES.items():
        found = compared(folder / name.replace(" ", "_"), name, settings)
        print(json.dumps({"case": name} | found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
