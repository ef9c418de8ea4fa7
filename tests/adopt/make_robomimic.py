"""Build robomimic's own diffusion policy, train it a little, and let robomimic save it.

Runs in an environment with robomimic >= 0.4: ``python make_robomimic.py FILE '{"ddim": true}'``.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "pcm_policy/adopt/originals"))

import common
import numpy as np
import torch
from run_robomimic import AveragedModel

SHAPES = {"object": [4], "robot0_eef_pos": [3], "unused": [2]}


def configured(config: Any, settings: dict) -> Any:
    """Set a config of robomimic's; ``settings`` as on the command line."""
    with config.unlocked():
        config.observation.modalities.obs.low_dim = ["robot0_eef_pos", "object"]
        config.train.hdf5_normalize_obs = bool(settings.get("normalize"))
        config.algo.ema.enabled = settings.get("ema", True)
        if settings.get("ddim"):
            config.algo.ddpm.enabled, config.algo.ddim.enabled = False, True
        if settings.get("normalize"):
            config.train.action_config["actions"]["normalization"] = "min_max"
        config.algo.optim_params.policy.num_train_batches = 5
        config.algo.optim_params.policy.num_epochs = 1
    if "cameras" in settings:
        with config.unlocked():
            config.observation.modalities.obs.rgb = list(settings["cameras"])
            rgb = config.observation.encoder.rgb
            rgb.core_kwargs.backbone_class = "ResNet18Conv"
            rgb.core_kwargs.pool_class = "SpatialSoftmax"
            rgb.core_kwargs.feature_dimension = 16
            if "crop" in settings:
                rgb.obs_randomizer_class = "CropRandomizer"
                rgb.obs_randomizer_kwargs.crop_height = settings["crop"][0]
                rgb.obs_randomizer_kwargs.crop_width = settings["crop"][1]
    return config


def main(file: str, settings: dict) -> None:
    common.stub_vision_operators()
    from robomimic.algo import algo_factory, diffusion_policy
    from robomimic.config import config_factory
    from robomimic.models import diffusion_policy_nets
    from robomimic.utils import obs_utils, train_utils

    class Averaged(AveragedModel):
        def step(self, model: torch.nn.Module) -> None:
            pairs = zip(self.averaged_model.parameters(), model.parameters(), strict=True)
            for average, value in pairs:
                average.data.lerp_(value.data, 0.3)

    diffusion_policy.EMAModel = Averaged
    torch.manual_seed(0)
    whole = diffusion_policy_nets.ConditionalUnet1D  # robomimic has no option for the sizes

    def small(**k):
        return whole(**k, down_dims=[16, 32], diffusion_step_embed_dim=32)

    diffusion_policy.DPNets.ConditionalUnet1D = small
    config = configured(config_factory("diffusion_policy"), settings)
    shapes = {k: [3, *v] for k, v in settings.get("cameras", {}).items()} | SHAPES
    obs_utils.initialize_obs_utils_with_config(config)
    algo = algo_factory("diffusion_policy", config, shapes, 2, torch.device("cpu"))
    algo.set_train()
    for _ in range(5):
        obs = {k: torch.randn(8, 2, *shapes[k]) for k in ("object", "robot0_eef_pos")}
        obs |= {k: torch.rand(8, 2, *shapes[k]) for k in settings.get("cameras", {})}
        batch = {"obs": obs, "goal_obs": None, "actions": 2 * torch.rand(8, 16, 2) - 1}
        algo.train_on_batch(batch, 0)
    stats = {}
    if settings.get("normalize"):
        rng = np.random.default_rng(0)

        def some(n):
            return {"offset": rng.normal(size=(1, n)), "scale": rng.uniform(0.5, 3, (1, n))}

        stats["obs_normalization_stats"] = {k: some(*v) for k, v in SHAPES.items()}
        stats["action_normalization_stats"] = {"actions": some(2)}
    env = {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}}
    meta = {"ac_dim": 2, "all_shapes": shapes, "all_obs_keys": list(shapes)}
    train_utils.save_model(algo, config, env, meta, file, **stats)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
