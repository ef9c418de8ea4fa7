"""diffusion_policy's low-dimensional policies, in float64; runs in an environment that has it.

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

    original = job["original"]
    scheduler = getattr(diffusers, original["scheduler"])(**original["arguments"])
    build = _transformer if job["config"]["network"] == "transformer" else _unet
    policy = build(job["config"], tensors["weights"], scheduler, original["policy"])
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


def _unet(config: dict[str, Any], weights: Any, scheduler: Any, policy: dict[str, Any]) -> Any:
    from diffusion_policy.model.diffusion.conditional_unet1d import ConditionalUnet1D
    from diffusion_policy.policy.diffusion_unet_lowdim_policy import DiffusionUnetLowdimPolicy

    options, inpainting = dict(config["network_options"]), config["inpainting"]
    model = ConditionalUnet1D(
        input_dim=config["action_dim"] + config["obs_dim"] * inpainting,
        global_cond_dim=None if inpainting else config["obs_dim"] * config["obs_steps"],
        diffusion_step_embed_dim=options.pop("step_embed_dim"),
        **options,
    )
    model.load_state_dict(weights)
    return DiffusionUnetLowdimPolicy(model, scheduler, **policy)


def _transformer(
    config: dict[str, Any], weights: Any, scheduler: Any, policy: dict[str, Any]
) -> Any:
    from diffusion_policy.model.diffusion.transformer_for_diffusion import TransformerForDiffusion
    from diffusion_policy.policy.diffusion_transformer_lowdim_policy import (
        DiffusionTransformerLowdimPolicy,
    )

    options, inpainting = dict(config["network_options"]), config["inpainting"]
    del options["obs_steps"]
    width = config["action_dim"] + config["obs_dim"] * inpainting
    model = TransformerForDiffusion(
        input_dim=width,
        output_dim=width,
        horizon=config["horizon"],
        n_obs_steps=config["obs_steps"],
        cond_dim=0 if inpainting else config["obs_dim"],
        **options,
    )
    masks = {k: v for k, v in model.state_dict().items() if k not in weights}
    assert set(masks) <= {"mask", "memory_mask", "_dummy_variable"}
    model.load_state_dict(masks | weights)
    return DiffusionTransformerLowdimPolicy(model, scheduler, **policy)


if __name__ == "__main__":
    common.run(answer)
