"""Build an image policy of diffusion_policy, train it a little, save it with its code.

Runs in an environment in which diffusion_policy, robomimic, dill and omegaconf import:
``python make_diffusion_policy_images.py FILE '{"hybrid": true, "cameras": {NAME: [H, W]}}'``;
``encoder`` and ``policy`` hold further settings of either.
"""

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "pcm_policy/adopt/originals"))

import common
import diffusion_policy
import torch
from omegaconf import OmegaConf

CONFIGS = Path(next(iter(diffusion_policy.__path__)), "config")


def config(settings: dict):
    """Load the project's own files, as hydra would compose and train.py resolve them."""
    OmegaConf.register_new_resolver("eval", eval, replace=True)
    name = "hybrid" if settings.get("hybrid") else "image"
    whole = OmegaConf.load(CONFIGS / f"train_diffusion_unet_{name}_workspace.yaml")
    whole.task = OmegaConf.load(CONFIGS / "task" / "pusht_image.yaml")
    for key in ("hydra", "logging", "multi_run", "defaults"):
        whole.pop(key, None)
    obs = {"robot_eef": {"shape": [3]}}
    obs |= {k: {"shape": [3, *v], "type": "rgb"} for k, v in settings["cameras"].items()}
    obs["agent_pos"] = {"shape": [2], "type": "low_dim"}
    whole.task.shape_meta.obs = obs
    whole.policy.down_dims, whole.policy.diffusion_step_embed_dim = [16, 32], 32
    for key, value in settings.get("policy", {}).items():
        whole.policy[key] = value
    for key, value in settings.get("encoder", {}).items():
        whole.policy.obs_encoder[key] = value
    whole.policy.num_inference_steps = settings.get("num_inference_steps", 100)
    if settings.get("ddim"):
        whole.policy.noise_scheduler._target_ = "diffusers.schedulers.scheduling_ddim.DDIMScheduler"
        whole.policy.noise_scheduler.pop("variance_type", None)
    OmegaConf.resolve(whole)
    return whole


def build(policy: dict):
    """Instantiate what hydra would."""
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusion_policy.model.vision.model_getter import get_resnet
    from diffusion_policy.model.vision.multi_image_obs_encoder import MultiImageObsEncoder

    scheduler = policy.pop("noise_scheduler")
    kind = DDIMScheduler if "DDIM" in scheduler.pop("_target_") else DDPMScheduler
    target = policy.pop("_target_")
    if "obs_encoder" in policy:
        from diffusion_policy.policy.diffusion_unet_image_policy import DiffusionUnetImagePolicy

        encoder = policy.pop("obs_encoder")
        model = encoder.pop("rgb_model")
        del encoder["_target_"], model["_target_"]
        encoder["rgb_model"] = get_resnet(**model)
        policy["obs_encoder"] = MultiImageObsEncoder(**encoder)
        return DiffusionUnetImagePolicy(noise_scheduler=kind(**scheduler), **policy)
    assert target.endswith("HybridImagePolicy")
    import robomimic.models.base_nets as nets
    import robomimic.models.obs_core as core

    nets.CropRandomizer = core.CropRandomizer  # where robomimic 0.2 has it
    from diffusion_policy.policy import diffusion_unet_hybrid_image_policy as hybrid

    return hybrid.DiffusionUnetHybridImagePolicy(noise_scheduler=kind(**scheduler), **policy)


def main(file: str, settings: dict) -> None:
    common.stub_vision_operators()
    from diffusion_policy.common.normalize_util import get_image_range_normalizer
    from diffusion_policy.model.common.normalizer import LinearNormalizer
    from diffusion_policy.workspace.base_workspace import BaseWorkspace

    class Workspace(BaseWorkspace):
        include_keys = ("global_step", "epoch")

        def __init__(self, cfg) -> None:
            super().__init__(cfg, "unused")
            self.model = build(OmegaConf.to_container(cfg.policy))
            self.ema_model = copy.deepcopy(self.model)
            self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
            self.global_step, self.epoch = 3, 0

    torch.manual_seed(0)
    workspace = Workspace(config(settings))
    data = {"robot_eef": torch.rand(40, 3), "agent_pos": 512 * torch.rand(40, 2)}
    data["action"] = 512 * torch.rand(40, 2)
    normalizer = LinearNormalizer()
    normalizer.fit(data)
    images = {k: torch.rand(40, 3, *size) for k, size in settings["cameras"].items()}
    for name in images:
        normalizer[name] = get_image_range_normalizer()
    for policy in (workspace.model, workspace.ema_model):
        policy.set_normalizer(normalizer)
    for _ in range(3):
        rows = torch.randint(0, 20, (4, 1)) + torch.arange(16)
        batch = {"obs": {k: v[rows] for k, v in (data | images).items() if k != "action"}}
        loss = workspace.model.compute_loss(batch | {"action": data["action"][rows]})
        workspace.optimizer.zero_grad()
        loss.backward()
        workspace.optimizer.step()
        pairs = zip(workspace.ema_model.parameters(), workspace.model.parameters(), strict=True)
        for average, value in pairs:
            average.data.lerp_(value.data, 0.3)
    workspace.save_checkpoint(file, use_thread=False)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
