"""robomimic's DiffusionPolicyUNet, in float64; runs in an environment that has robomimic >= 0.4.

The checkpoint is put together again from plain settings and safetensors and given to robomimic's
own ``policy_from_checkpoint``. robomimic asks for diffusers 0.11.1, whose ``EMAModel`` keeps a copy
of the network; under a newer diffusers a class that does only that takes its place.
"""

import copy
from functools import partial
from typing import Any

import common
import torch


class AveragedModel:
    """The part of diffusers 0.11.1's EMAModel that inference uses."""

    def __init__(self, model: torch.nn.Module, power: float) -> None:
        self.averaged_model = copy.deepcopy(model).eval()


def set_sizes(diffusion_policy: Any, network_options: dict[str, Any]) -> None:
    """Give the U-Net its sizes, which robomimic's own config has no effect on."""
    options = dict(network_options)
    options["diffusion_step_embed_dim"] = options.pop("step_embed_dim")
    del options["cond_predict_scale"]  # robomimic's always does
    whole = diffusion_policy.DPNets.ConditionalUnet1D
    diffusion_policy.DPNets.ConditionalUnet1D = partial(whole, **options)


def put_together(
    original: dict[str, Any], weights: dict[str, Any], extra: dict[str, Any]
) -> dict[str, Any]:
    """Return a checkpoint as robomimic's ``save_model`` writes it."""
    nets = {f"policy.noise_pred_net.{k}": v for k, v in weights.items()} | extra
    checkpoint = {
        "algo_name": "diffusion_policy",
        "config": original["config"],
        "shape_metadata": original["shape_metadata"],
        "model": {"nets": nets, "ema": nets if original["averaged"] else None},
    }
    for key in ("obs_normalization_stats", "action_normalization_stats"):
        if original[key] is not None:
            checkpoint[key] = original[key]
    return checkpoint


@torch.inference_mode()
def answer(job: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Let robomimic load the policy, then observe, sample and un-normalise."""
    common.stub_vision_operators()
    import robomimic
    from robomimic.algo import diffusion_policy
    from robomimic.utils import file_utils, obs_utils, python_utils, tensor_utils

    diffusion_policy.EMAModel = AveragedModel
    set_sizes(diffusion_policy, job["config"]["network_options"])
    original = job["original"]
    checkpoint = put_together(original, tensors["weights"], tensors["extra"])
    rollout, _ = file_utils.policy_from_checkpoint(device=torch.device("cpu"), ckpt_dict=checkpoint)
    algo = rollout.policy
    if algo.ema is None:
        algo.ema = AveragedModel(algo.nets, 0.75)
    network = algo.ema.averaged_model["policy"]["noise_pred_net"]
    common.to_double(network, algo.noise_scheduler)
    common.feed_noise(tensors.get("steps"))
    keys = original["keys"]
    shapes = original["shape_metadata"]["all_shapes"]
    batch, steps = tensors["raw"].shape[:2]
    parts = tensors["raw"].split(list(keys.values()), dim=-1)
    obs = {
        k: part.reshape(batch, steps, *shapes[k]).float().numpy()
        for k, part in zip(keys, parts, strict=True)
    }
    for i, name in enumerate(original["cameras"]):  # robomimic brings frames to [0, 1] itself
        obs[name] = tensors[f"image.{i}"].numpy()
    prepared = rollout._prepare_observation(obs, batched_ob=True)
    prepared = {k: v.double() for k, v in prepared.items()}
    encoder = algo.ema.averaged_model["policy"]["obs_encoder"].double()
    inputs = {"obs": prepared, "goal": None}
    seen = tensor_utils.time_distributed(inputs, encoder, inputs_as_kwargs=True).flatten(1)
    inner = network.forward
    network.forward = lambda sample, timestep, global_cond: inner(sample, timestep, seen)
    torch.randn = lambda *a, **k: tensors["initial"]
    chunks = []
    step = algo.noise_scheduler.step
    algo.noise_scheduler.step = lambda **k: chunks.append(step(**k)) or chunks[-1]
    action = algo._get_action_trajectory(obs_dict=dict(prepared))
    stats = rollout.action_normalization_stats
    if stats is not None:  # as in RolloutPolicy.__call__
        names = algo.global_config.train.action_keys
        flat = action.flatten(0, 1).numpy()
        parts = python_utils.vector_to_action_dict(
            flat, {k: v["offset"].shape[1:] for k, v in stats.items()}, names
        )
        parts = obs_utils.unnormalize_dict(parts, stats)
        flat = python_utils.action_dict_to_vector(parts, action_keys=names)
        action = torch.from_numpy(flat).view_as(action)
    outputs = {"seen": seen, "chunk": chunks[-1].prev_sample, "action": action}
    return f"robomimic {robomimic.__version__}", outputs


if __name__ == "__main__":
    common.run(answer)
