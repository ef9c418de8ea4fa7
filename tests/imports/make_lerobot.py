"""Train LeRobot's own DiffusionPolicy for a few steps and save it; runs in LeRobot's environment.

python make_lerobot.py FOLDER '{"noise_scheduler_type": "DDIM", ...}'
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "pcm_policy/imports/originals"))

import common
import torch


def main(folder: str, settings: dict) -> None:
    common.stub_vision_operators()
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors

    torch.manual_seed(0)
    modes = settings.pop("normalization_mapping", None)
    if modes is not None:
        settings["normalization_mapping"] = {k: NormalizationMode(v) for k, v in modes.items()}
    state, env = "observation.state", "observation.environment_state"
    width = settings.pop("env_width", 3)
    low, high = settings.pop("range", (-2, 7))
    config = DiffusionConfig(
        input_features={
            state: PolicyFeature(FeatureType.STATE, (2,)),
            env: PolicyFeature(FeatureType.ENV, (width,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        device="cpu",
        down_dims=(16, 32),
        diffusion_step_embed_dim=32,
        **settings,
    )
    policy = DiffusionPolicy(config)
    sizes = ((state, 2), (env, width), ("action", 2))
    data = {k: torch.rand(400, n) * (high - low) + low for k, n in sizes}
    stats = {
        k: {"min": v.amin(0), "max": v.amax(0), "mean": v.mean(0), "std": v.std(0)}
        for k, v in data.items()
    }
    before, after = make_diffusion_pre_post_processors(config, stats)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    for _ in range(5):
        rows = torch.randint(0, 380, (16, 1))
        steps = {state: config.n_obs_steps, env: config.n_obs_steps, "action": config.horizon}
        batch = before({k: v[rows + torch.arange(steps[k])] for k, v in data.items()})
        batch["action_is_pad"] = torch.zeros(16, config.horizon, dtype=torch.bool)
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
