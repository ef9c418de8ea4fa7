"""diffusion_policy's DiffusionUnetLowdimPolicy, in float64; runs in an environment that has it.

The policy is built from plain settings and loaded from safetensors: the checkpoint's own pickle,
which could run anything, is not read here.
"""

from typing import Any

import common
import torch


@torch.inference_mode()
def answer(job: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Build the policy, then let it predict."""
    import diffusers
    from diffusion_policy.model.diffusion.conditional_unet1d import ConditionalUnet1D
    from diffusion_policy.policy.diffusion_unet_lowdim_policy import DiffusionUnetLowdimPolicy

    config, original = job["config"], job["original"]
    options = dict(config["network_options"])
    model = ConditionalUnet1D(
        input_dim=config["action_dim"],
        global_cond_dim=config["obs_dim"] * config["obs_steps"],
        diffusion_step_embed_dim=options.pop("step_embed_dim"),
        **options,
    )
    model.load_state_dict(tensors["weights"])
    scheduler = getattr(diffusers, original["scheduler"])(**original["arguments"])
    policy = DiffusionUnetLowdimPolicy(model, scheduler, **original["policy"])
    prefix = "normalizer."
    policy.normalizer.load_state_dict(
        {k.removeprefix(prefix): v for k, v in tensors["extra"].items()}
    )
    policy.double().eval()
    common.to_double(policy.model, scheduler)
    common.feed_noise(tensors.get("steps"))
    torch.randn = lambda *a, **k: tensors["initial"].clone()  # the trajectory is drawn inside
    result = policy.predict_action({"obs": tensors["raw"]})
    seen = policy.normalizer["obs"].normalize(tensors["raw"]).flatten(1)
    chunk = policy.normalizer["action"].normalize(result["action_pred"])
    outputs = {"seen": seen, "chunk": chunk, "action": result["action"]}
    return f"diffusion_policy (diffusers {diffusers.__version__})", outputs


if __name__ == "__main__":
    common.run(answer)
