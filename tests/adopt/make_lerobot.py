"""Train LeRobot's own DiffusionPolicy for a few steps and save it; runs in LeRobot's environment.

python make_lerobot.py FOLDER '{"noise_scheduler_type": "DDIM", "cameras": {NAME: [H, W]}, ...}'
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "pcm_policy/adopt/originals"))

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
    cameras = settings.pop("cameras", {})
    # what LeRobot's versions do not agree about; a network of an image's weights is a download
    settings = {"horizon": 16, "n_action_steps": 8, "use_group_norm": True} | settings
    settings = {"use_separate_rgb_encoder_per_camera": False} | settings
    settings["pretrained_backbone_weights"] = None
    for name in ("crop_shape", "resize_shape"):  # 0.6.1 saves no list where a tuple is declared
        if settings.get(name) is not None:
            settings[name] = tuple(settings[name])
    config = DiffusionConfig(
        input_features={
            state: PolicyFeature(FeatureType.STATE, (2,)),
            env: PolicyFeature(FeatureType.ENV, (width,)),
        }
        | {k: PolicyFeature(FeatureType.VISUAL, (3, *size)) for k, size in cameras.items()},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        device="cpu",
        down_dims=(16, 32),
        diffusion_step_embed_dim=32,
        **settings,
    )
    policy = DiffusionPolicy(config)
    rows, drawn = (40, 4) if cameras else (400, 16)
    sizes = ((state, 2), (env, width), ("action", 2))
    data = {k: torch.rand(rows, n) * (high - low) + low for k, n in sizes}
    data |= {k: torch.rand(rows, 3, *size) ** 2 for k, size in cameras.items()}
    stats = {}
    for k, v in data.items():
        keep = {"dim": (0, 2, 3) if k in cameras else (0,), "keepdim": True}
        found = {"min": v.amin(**keep), "max": v.amax(**keep)}
        found |= {"mean": v.mean(**keep), "std": v.std(**keep)}
        stats[k] = {name: value[0] for name, value in found.items()}
    before, after = make_diffusion_pre_post_processors(config, stats)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    for _ in range(5):
        first = torch.randint(0, rows - 20, (drawn, 1))
        steps = dict.fromkeys(data, config.n_obs_steps) | {"action": config.horizon}
        batch = before({k: v[first + torch.arange(steps[k])] for k, v in data.items()})
        batch["action_is_pad"] = torch.zeros(drawn, config.horizon, dtype=torch.bool)
        loss, _ = policy(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
