"""Build a low-dimensional policy of diffusion_policy, train it a little, save it with its code.

Runs in an environment in which diffusion_policy, dill and omegaconf import:
``python make_diffusion_policy.py FILE '{"ddim": true}'``, with ``"transformer": {OPTION: VALUE}``
for that network and ``"inpainting": true`` for observations within the trajectory. The workspace is
the project's ``BaseWorkspace`` with the members of ``TrainDiffusionUnetLowdimWorkspace``, whose own
module would import its training loop's loggers as well.
"""

import copy
import json
import sys
from pathlib import Path

import diffusion_policy
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusion_policy.model.common.normalizer import LinearNormalizer
from diffusion_policy.model.diffusion.conditional_unet1d import ConditionalUnet1D
from diffusion_policy.model.diffusion.transformer_for_diffusion import TransformerForDiffusion
from diffusion_policy.policy.diffusion_transformer_lowdim_policy import (
    DiffusionTransformerLowdimPolicy,
)
from diffusion_policy.policy.diffusion_unet_lowdim_policy import DiffusionUnetLowdimPolicy
from diffusion_policy.workspace.base_workspace import BaseWorkspace
from omegaconf import OmegaConf

CONFIGS = Path(next(iter(diffusion_policy.__path__)), "config")


def config(settings: dict):
    """Load the project's own files, as hydra would compose and train.py resolve them."""
    OmegaConf.register_new_resolver("eval", eval, replace=True)
    ddim = "_ddim" if settings.get("ddim") else ""
    name = "transformer" if "transformer" in settings else f"unet{ddim}"
    whole = OmegaConf.load(CONFIGS / f"train_diffusion_{name}_lowdim_workspace.yaml")
    whole.task = OmegaConf.load(CONFIGS / "task" / "pusht_lowdim.yaml")
    for key in ("hydra", "logging", "multi_run", "defaults"):
        whole.pop(key, None)
    if "transformer" in settings:
        whole.obs_as_cond = not settings.get("inpainting", False)
        small = {"n_layer": 2, "n_emb": 32, "p_drop_attn": 0.1}
        whole.policy.model = OmegaConf.merge(whole.policy.model, small, settings["transformer"])
        whole.horizon, whole.n_action_steps = 10, 8
    else:
        whole.obs_as_global_cond = not settings.get("inpainting", False)
        whole.policy.oa_step_convention = True  # not so in _ddim
        whole.policy.model.down_dims = [16, 32]
    whole.policy.num_inference_steps = settings.get("num_inference_steps", 100)
    whole.policy.noise_scheduler.prediction_type = settings.get("prediction_type", "epsilon")
    if settings.get("ddim"):
        whole.policy.noise_scheduler._target_ = "diffusers.schedulers.scheduling_ddim.DDIMScheduler"
        whole.policy.noise_scheduler.pop("variance_type", None)
    OmegaConf.resolve(whole)
    return whole


class Workspace(BaseWorkspace):
    include_keys = ("global_step", "epoch")

    def __init__(self, cfg) -> None:
        super().__init__(cfg, "unused")
        policy = OmegaConf.to_container(cfg.policy)
        model, scheduler = policy.pop("model"), policy.pop("noise_scheduler")
        kind = DDIMScheduler if "DDIM" in scheduler["_target_"] else DDPMScheduler
        for part in (policy, model, scheduler):
            del part["_target_"]
        if "n_emb" in model:
            network = TransformerForDiffusion(**model)
            self.model = DiffusionTransformerLowdimPolicy(network, kind(**scheduler), **policy)
        else:
            network = ConditionalUnet1D(**model)
            self.model = DiffusionUnetLowdimPolicy(network, kind(**scheduler), **policy)
        self.ema_model = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-3)
        self.global_step, self.epoch = 5, 0


def main(file: str, settings: dict) -> None:
    torch.manual_seed(0)
    workspace = Workspace(config(settings))
    data = {"obs": 512 * torch.rand(400, 20), "action": 512 * torch.rand(400, 2)}
    data["obs"][:, 3] = 7  # a dimension that never changes
    normalizer = LinearNormalizer()
    normalizer.fit(data)
    for policy in (workspace.model, workspace.ema_model):
        policy.set_normalizer(normalizer)
    for _ in range(5):
        rows = torch.randint(0, 380, (16, 1)) + torch.arange(workspace.model.horizon)
        loss = workspace.model.compute_loss({k: v[rows] for k, v in data.items()})
        workspace.optimizer.zero_grad()
        loss.backward()
        workspace.optimizer.step()
        pairs = zip(
            workspace.ema_model.model.parameters(), workspace.model.model.parameters(), strict=True
        )
        for average, value in pairs:
            average.data.lerp_(value.data, 0.3)
    workspace.save_checkpoint(file, use_thread=False)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
