"""diffusion_policy's policies, in float64; runs in an environment that has it.

The policy is built from plain settings and loaded from safetensors: the checkpoint's own pickle,
which could run anything, is not read here.
"""

from typing import Any

import common
import torch


@torch.inference_mode()
def answer(job: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Build the policy, then let it predict."""
    common.stub_vision_operators()
    import diffusers

    config, original = job["config"], job["original"]
    scheduler = getattr(diffusers, original["scheduler"])(**original["arguments"])
    if config["vision"] is not None:
        build = _images
    else:
        build = _transformer if config["network"] == "transformer" else _unet
    policy = build(job, tensors, scheduler)
    _load(policy.normalizer, tensors["extra"], "normalizer.")
    policy.double().eval()
    common.to_double(policy.model, scheduler)
    common.feed_noise(tensors.get("steps"))
    torch.randn = lambda *a, **k: tensors["initial"].clone()  # the trajectory is drawn inside
    if config["vision"] is not None:
        obs, seen = _seen(policy, original["fields"], list(config["vision"]["cameras"]), tensors)
    else:
        obs = {"obs": tensors["raw"]}
        seen = policy.normalizer["obs"].normalize(tensors["raw"]).flatten(1)
    result = policy.predict_action(obs)
    chunk = policy.normalizer["action"].normalize(result["action_pred"])
    outputs = {"seen": seen, "chunk": chunk, "action": result["action"]}
    return f"diffusion_policy (diffusers {diffusers.__version__})", outputs


def _load(module: torch.nn.Module, tensors: dict[str, Any], prefix: str) -> None:
    inside = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict(inside)


def _images(job: dict[str, Any], tensors: dict[str, Any], scheduler: Any) -> Any:
    """Build a policy with cameras."""
    import robomimic.models.base_nets as nets
    import robomimic.models.obs_core as core
    from diffusion_policy.model.vision.model_getter import get_resnet
    from diffusion_policy.model.vision.multi_image_obs_encoder import MultiImageObsEncoder
    from diffusion_policy.policy import (
        diffusion_unet_hybrid_image_policy,
        diffusion_unet_image_policy,
    )

    original = job["original"]
    given, options = dict(original["policy"]), dict(job["config"]["network_options"])
    options["diffusion_step_embed_dim"] = options.pop("step_embed_dim")
    if original["class"] == "DiffusionUnetImagePolicy":
        arguments = {k: v for k, v in original["encoder"].items() if k != "_target_"}
        model = {k: v for k, v in arguments.pop("rgb_model").items() if k != "_target_"}
        backbone = get_resnet(**model | {"weights": None})
        given["obs_encoder"] = MultiImageObsEncoder(rgb_model=backbone, **arguments)
        kind = diffusion_unet_image_policy.DiffusionUnetImagePolicy
    else:
        nets.CropRandomizer = core.CropRandomizer  # where robomimic 0.2 has it
        kind = diffusion_unet_hybrid_image_policy.DiffusionUnetHybridImagePolicy
    policy = kind(noise_scheduler=scheduler, **given | options)
    policy.model.load_state_dict(tensors["weights"])
    _load(policy.obs_encoder, tensors["extra"], "obs_encoder.")
    return policy


def _seen(
    policy: Any, fields: dict[str, int], cameras: list[str], tensors: dict[str, Any]
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return the observation as a dictionary, and what the policy makes of it."""
    parts = tensors["raw"].split(list(fields.values()), dim=-1)
    obs = dict(zip(fields, parts, strict=True))
    obs |= {name: common.pixels(tensors[f"image.{i}"]) for i, name in enumerate(cameras)}
    rows = {k: v.flatten(0, 1) for k, v in policy.normalizer.normalize(obs).items()}
    return obs, policy.obs_encoder(rows).reshape(len(tensors["raw"]), -1)


def _unet(job: dict[str, Any], tensors: dict[str, Any], scheduler: Any) -> Any:
    from diffusion_policy.model.diffusion.conditional_unet1d import ConditionalUnet1D
    from diffusion_policy.policy.diffusion_unet_lowdim_policy import DiffusionUnetLowdimPolicy

    config, weights, policy = job["config"], tensors["weights"], job["original"]["policy"]
    options, inpainting = dict(config["network_options"]), config["inpainting"]
    model = ConditionalUnet1D(
        input_dim=config["action_dim"] + config["obs_dim"] * inpainting,
        global_cond_dim=None if inpainting else config["obs_dim"] * config["obs_steps"],
        diffusion_step_embed_dim=options.pop("step_embed_dim"),
        **options,
    )
    model.load_state_dict(weights)
    return DiffusionUnetLowdimPolicy(model, scheduler, **policy)


def _transformer(job: dict[str, Any], tensors: dict[str, Any], scheduler: Any) -> Any:
    from diffusion_policy.model.diffusion.transformer_for_diffusion import TransformerForDiffusion
    from diffusion_policy.policy.diffusion_transformer_lowdim_policy import (
        DiffusionTransformerLowdimPolicy,
    )

    config, weights, policy = job["config"], tensors["weights"], job["original"]["policy"]
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
