"""The golden policy with a camera: ``python tests/golden/cameras.py`` writes ``vision/``.

Its ResNet would be 45 MB, so its weights are a formula. What is kept are the names and shapes of
all weights, the config, and what the policy computes.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.files import to_json
from pcm_policy.policy.config_file import FORMAT_VERSION
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.noise import Noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver

FOLDER = Path(__file__).parent / "vision"
DDIM = SamplerConfig("ddim", 6, "leading")
CONFIG = PolicyConfig(
    obs_dim=11,
    action_dim=2,
    horizon=8,
    action_steps=4,
    network_options={"width": 16, "depth": 1, "step_embed_dim": 8},
    sampler=DDIM,
    vision=VisionConfig((1, "top", 2), {"top": (40, 44)}, crop=(36, 40), keypoints=4, features=8),
)


def policy(config: PolicyConfig) -> DiffusionPolicy:
    """Build the policy and fill its weights."""
    built = DiffusionPolicy(config)
    for i, (name, value) in enumerate(sorted(built.state_dict().items())):
        wave = torch.sin(0.37 * torch.arange(value.numel(), dtype=torch.float64) ** 1.1 + i)
        fan = value.shape[1:].numel() if value.ndim > 1 else 100
        filled = 1.7 / fan**0.5 * wave.view(value.shape)
        positive = (value.ndim == 1 and "weight" in name) or name.endswith("scale")
        value.copy_(1 + 0.3 * filled if positive else filled * (9 if "pool" in name else 1))
    for normal in (built.obs_normalizer, built.action_normalizer):
        normal.low.fill_(-9.0)
        normal.high.fill_(9.0)
    return built


def inputs() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """An observation of each kind, and noise."""
    count = torch.arange(2 * 2 * 40 * 44 * 3)
    image = ((count // 171) * 37 % 251).to(torch.uint8).view(2, 2, 40, 44, 3)
    return {"state": torch.linspace(-1, 1, 12).view(2, 2, 3), "top": image}, torch.cos(
        torch.arange(2 * 8 * 2.0)
    ).view(2, 8, 2)


def chunk(built: DiffusionPolicy) -> torch.Tensor:
    """What the policy computes."""
    obs, initial = inputs()
    solver = Solver.of("sequential", built.config.sampler)
    found = built.predict(
        {k: v.numpy() for k, v in obs.items()}, solver=solver, noise=Noise(initial)
    )
    return torch.from_numpy(found.chunk)


def main() -> None:
    """Write the folder."""
    FOLDER.mkdir(exist_ok=True)
    built = policy(CONFIG)
    config = {"format_version": FORMAT_VERSION, "policy": built.config.to_dict()}
    (FOLDER / "config.json").write_text(to_json(config))
    shapes = {k: [str(v.dtype), *v.shape] for k, v in built.state_dict().items()}
    (FOLDER / "layout.json").write_text(json.dumps(shapes, indent=0) + "\n")
    save_file({"chunk": chunk(built)}, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
