"""Checkpoints in the documented layouts of other projects, small and random, made without them.

Where the originals are installed, ``test_originals.py`` makes real ones with their own code.
"""

import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from pcm_policy.networks.camera import CameraEncoder
from pcm_policy.networks.transformer import DenoisingTransformer
from pcm_policy.networks.unet1d import ConditionalUnet1d

TO, TA, T, DA = 2, 5, 8, 2
WIDTHS = {"observation.state": 2, "observation.environment_state": 3, "action": DA}
SIZES: dict[str, Any] = {"down_dims": (16, 32), "kernel_size": 3, "step_embed_dim": 16}


def unet(obs_dim: int, seed: int = 0, inpainting: bool = False) -> ConditionalUnet1d:
    """A small network with weights large enough for clipping to matter."""
    torch.manual_seed(seed)
    width, seen = (DA + obs_dim, 0) if inpainting else (DA, TO * obs_dim)
    network = ConditionalUnet1d(width, T, seen, **SIZES)
    for value in network.parameters():
        value.data *= 1.5
    return network.eval()


def statistics(width: int, seed: int) -> dict[str, torch.Tensor]:
    rows = np.random.default_rng(seed).uniform(-3, 20, (50, width)).astype(np.float32)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {k: torch.from_numpy(v) for k, v in found.items()}


def lerobot_name(name: str) -> str:
    """The name that LeRobot 0.4.4 gives to a weight of its ``DiffusionConditionalUnet1d``."""
    name = name.replace(".blocks.0.block.", ".conv1.block.")
    name = name.replace(".blocks.1.block.", ".conv2.block.")
    return "diffusion.unet." + re.sub(r"(modules\.\d+\.2)\.conv\.", r"\1.", name)


def lerobot_config(**changes: Any) -> dict[str, Any]:
    """``config.json`` as LeRobot 0.4.4 writes it, less what does not concern inference."""
    kinds = {"observation.state": "STATE", "observation.environment_state": "ENV"}
    return {
        "type": "diffusion",
        "n_obs_steps": TO,
        "input_features": {k: {"type": v, "shape": [WIDTHS[k]]} for k, v in kinds.items()},
        "output_features": {"action": {"type": "ACTION", "shape": [DA]}},
        "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MEAN_STD", "ENV": "MIN_MAX"}
        | {"ACTION": "MIN_MAX"},
        "horizon": T,
        "n_action_steps": TA,
        "n_groups": 8,
        "down_dims": list(SIZES["down_dims"]),
        "kernel_size": SIZES["kernel_size"],
        "diffusion_step_embed_dim": SIZES["step_embed_dim"],
        "noise_scheduler_type": "DDIM",
        "num_train_timesteps": 20,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "num_inference_steps": 6,
    } | changes


CAMERAS: dict[str, tuple[int, int]] = {"observation.images.b": (45, 40)}
CAMERAS["observation.images.a"] = (45, 40)
CROP = (32, 36)
FEATURES = 2 * 4
_CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def camera_weights(seed: int, features: int = FEATURES) -> dict[str, torch.Tensor]:
    """Of one encoder with four keypoints, under our names; keypoints that differ with the image."""
    torch.manual_seed(seed)
    encoder = CameraEncoder((45, 40), None, CROP, "resnet18", "group", 4, features)
    state = encoder.state_dict()
    state["pool.nets.weight"] *= 10
    return dict(state)


def counted(name: str) -> str:
    """The name of a weight in a ResNet made of a sequence of torchvision's children."""
    head, _, inner = name.partition(".")
    child, _, rest = inner.partition(".")
    return f"backbone.{_CHILDREN[child]}.{rest}" if head == "backbone" else name


def camera_statistics(seed: int) -> dict[str, torch.Tensor]:
    """Of three channels with values in [0, 1], with axes for height and width."""
    rows = np.random.default_rng(seed).uniform(0, 1, (50, 3)).astype(np.float32)
    found = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {k: torch.from_numpy(v)[:, None, None] for k, v in found.items()}


def write_lerobot_cameras(
    folder: Path, layout: str = "processors", separate: bool = False, **changes: Any
) -> ConditionalUnet1d:
    """The same of a policy with ``CAMERAS``, each encoder from its place as the seed."""
    weights = {}
    for i in range(len(CAMERAS) if separate else 1):
        start = f"diffusion.rgb_encoder.{i}." if separate else "diffusion.rgb_encoder."
        weights |= {start + counted(k): v for k, v in camera_weights(i).items()}
        weights[f"{start}pool.pos_grid"] = torch.zeros(4, 2)
    settings = {
        "vision_backbone": "resnet18",
        "crop_shape": list(CROP),
        "use_group_norm": True,
        "spatial_softmax_num_keypoints": 4,
        "use_separate_rgb_encoder_per_camera": separate,
    }
    network = unet(5 + len(CAMERAS) * FEATURES)
    return write_lerobot(folder, layout, weights, network, **settings | changes)


def write_lerobot(
    folder: Path,
    layout: str = "processors",
    cameras: dict[str, torch.Tensor] | None = None,
    network: ConditionalUnet1d | None = None,
    **changes: Any,
) -> ConditionalUnet1d:
    """Write a policy folder in one of the three layouts; returns the network in it."""
    network = unet(5) if network is None else network
    folder.mkdir(parents=True)
    weights = {lerobot_name(k): v.contiguous() for k, v in network.state_dict().items()}
    stats = {name: statistics(width, i) for i, (name, width) in enumerate(WIDTHS.items())}
    config = lerobot_config(**changes)
    if cameras is not None:
        weights |= {k: v.clone() for k, v in cameras.items()}
        stats |= {name: camera_statistics(i) for i, name in enumerate(CAMERAS)}
        images = {k: {"type": "VISUAL", "shape": [3, *size]} for k, size in CAMERAS.items()}
        config["input_features"] = images | config["input_features"]
    if layout == "processors":
        write_processors(folder, config, stats)
    else:
        for name, values in stats.items():
            gaussian = name == "observation.state" or name in CAMERAS
            keys = ("mean", "std") if gaussian else ("min", "max")
            modules = ["unnormalize_outputs", "normalize_targets"]
            for module in modules if name == "action" else ["normalize_inputs"]:
                for key in keys:
                    entry = f"{module}.buffer_{name.replace('.', '_')}.{key}"
                    weights[entry] = values[key].clone()
    if layout == "shapes":  # before LeRobot 0.1
        del config["type"], config["normalization_mapping"]
        inputs, outputs = config.pop("input_features"), config.pop("output_features")
        config["input_shapes"] = {k: v["shape"] for k, v in inputs.items()}
        config["output_shapes"] = {k: v["shape"] for k, v in outputs.items()}
        ranged = "observation.environment_state"
        modes = {name: "min_max" if name == ranged else "mean_std" for name in inputs}
        config["input_normalization_modes"] = modes
        config["output_normalization_modes"] = {"action": "min_max"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return network


def write_processors(folder: Path, config: dict[str, Any], stats: dict[str, Any]) -> None:
    flat = {f"{name}.{key}": v for name, values in stats.items() for key, v in values.items()}
    features = config["input_features"] | config["output_features"]
    normal = {"eps": 1e-8, "features": features, "norm_map": config["normalization_mapping"]}
    for which, steps in (
        ("pre", ["rename_observations_processor", "to_batch_processor", "normalizer_processor"]),
        ("post", ["unnormalizer_processor", "device_processor"]),
    ):
        written: list[dict[str, Any]] = []
        for i, name in enumerate(steps):
            step: dict[str, Any] = {"registry_name": name, "config": {}}
            if "normalizer" in name:
                file = f"policy_{which}processor_step_{i}_{name}.safetensors"
                step |= {"config": normal, "state_file": file}
                save_file({k: v.clone() for k, v in flat.items()}, folder / file)
            written.append(step)
        text = json.dumps({"name": f"policy_{which}processor", "steps": written})
        (folder / f"policy_{which}processor.json").write_text(text)


TRANSFORMER: dict[str, Any] = {"n_layer": 2, "n_head": 2, "n_emb": 16, "p_drop_attn": 0.3}


def transformer(obs_dim: int, seed: int = 0, **options: Any) -> DenoisingTransformer:
    """A small network whose output depends on everything it sees."""
    torch.manual_seed(seed)
    network = DenoisingTransformer(DA, T, TO * obs_dim, obs_steps=TO, **TRANSFORMER | options)
    for name, value in network.named_parameters():
        if value.ndim > 1:
            value.data.normal_(std=0.5 if "emb" in name else 0.3)
    return network.eval()


def transformer_state(network: DenoisingTransformer) -> dict[str, torch.Tensor]:
    """The state dict of ``TransformerForDiffusion``: masks and a parameter without numbers too."""
    state = {"_dummy_variable": torch.zeros(0)} | network.state_dict()
    for name in ("mask", "memory_mask"):
        mask = getattr(network, name)
        if mask is not None:
            state[name] = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))
    return state


def diffusion_policy_config(**changes: Any) -> dict[str, Any]:
    """``cfg`` of train_diffusion_unet_lowdim_workspace.yaml, resolved, cut to what counts."""
    scheduler = {
        "_target_": "diffusers.schedulers.scheduling_ddpm.DDPMScheduler",
        "num_train_timesteps": 20,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "variance_type": "fixed_small",
        "clip_sample": True,
        "prediction_type": "epsilon",
    }
    policy = "diffusion_policy.policy.diffusion_unet_lowdim_policy.DiffusionUnetLowdimPolicy"
    return {
        "n_latency_steps": 0,
        "training": {"use_ema": True},
        "task": {
            "name": "pusht_lowdim",
            "dataset": {"_target_": "diffusion_policy.dataset.pusht_dataset.PushTLowdimDataset"},
            "env_runner": {"fps": 10},
        },
        "policy": {
            "_target_": policy,
            "model": {"n_groups": 8},
            "noise_scheduler": scheduler | changes.pop("scheduler", {}),
            "horizon": T,
            "obs_dim": 5,
            "action_dim": DA,
            "n_action_steps": TA,
            "n_obs_steps": TO,
            "num_inference_steps": 20,
            "obs_as_local_cond": False,
            "obs_as_global_cond": True,
            "pred_action_steps_only": False,
            "oa_step_convention": True,
        }
        | changes,
    }


def transformer_config(**changes: Any) -> dict[str, Any]:
    """``cfg`` of train_diffusion_transformer_lowdim_workspace.yaml, likewise."""
    config = diffusion_policy_config(scheduler=changes.pop("scheduler", {}))
    policy = config["policy"]
    for key in ("obs_as_local_cond", "obs_as_global_cond", "oa_step_convention"):
        del policy[key]
    module = "diffusion_policy.policy.diffusion_transformer_lowdim_policy"
    ours = {"_target_": f"{module}.DiffusionTransformerLowdimPolicy", "obs_as_cond": True}
    return config | {"policy": policy | ours | {"model": {"n_head": 2}} | changes}


def diffusion_policy_payload(**changes: Any) -> tuple[dict[str, Any], ConditionalUnet1d]:
    """What ``BaseWorkspace.save_checkpoint`` saves, and the averaged network in it."""
    averaged, last = unet(5), unet(5, seed=1)
    config = diffusion_policy_config(**changes)
    return _workspace(config, averaged.state_dict(), last.state_dict()), averaged


def inpainting_payload(**changes: Any) -> tuple[dict[str, Any], ConditionalUnet1d]:
    """The same of a U-Net whose trajectory holds the observations."""
    averaged, last = (unet(5, seed, inpainting=True) for seed in (0, 1))
    config = diffusion_policy_config(obs_as_global_cond=False, **changes)
    return _workspace(config, averaged.state_dict(), last.state_dict()), averaged


IMAGE_SHAPES = {"wrist": [3, 45, 40], "robot_eef": [3], "front": [3, 45, 40], "agent_pos": [2]}


def robomimic_core(weights: dict[str, torch.Tensor], temperature: float) -> dict[str, torch.Tensor]:
    """The state dict of robomimic's ``VisualCore``, each part of which has two names."""
    found = {}
    for name, value in weights.items():
        if name.startswith("backbone."):
            rest = counted(name).removeprefix("backbone.")
            found |= {f"backbone.nets.{rest}": value, f"nets.0.nets.{rest}": value}
        elif name.startswith("pool."):
            rest = name.removeprefix("pool.")
            value = value * temperature
            found |= {f"pool.{rest}": value, f"nets.1.{rest}": value}
        else:
            found[name.replace("out.", "nets.3.")] = value
    for at in ("pool", "nets.1"):
        found |= {f"{at}.temperature": torch.full((1,), temperature)}
        found |= {f"{at}.pos_x": torch.zeros(1, 4), f"{at}.pos_y": torch.zeros(1, 4)}
    return {k: v.clone() for k, v in found.items()}


def image_payload(
    hybrid: bool, encoder: dict[str, Any] | None = None, **changes: Any
) -> tuple[dict[str, Any], ConditionalUnet1d]:
    """An image policy of diffusion_policy, camera ``i`` of ``IMAGE_SHAPES`` with ``i`` as seed."""
    cameras = [k for k, shape in IMAGE_SHAPES.items() if len(shape) == 3]
    encoder, settings = encoder or {}, {"_target_": "x.MultiImageObsEncoder"}
    settings |= {"crop_shape": list(CROP), "imagenet_norm": True, "share_rgb_model": False}
    config = diffusion_policy_config(scheduler=changes.pop("scheduler", {}))
    policy = {k: v for k, v in config["policy"].items() if k in _KEPT}
    kinds = {k: "rgb" if k in cameras else "low_dim" for k in IMAGE_SHAPES}
    obs = {k: {"shape": shape, "type": kinds[k]} for k, shape in IMAGE_SHAPES.items()}
    policy |= {"shape_meta": {"obs": obs, "action": {"shape": [DA]}}, "n_groups": 8}
    weights = {}
    if hybrid:
        policy["_target_"] = "x.DiffusionUnetHybridImagePolicy"
        policy |= {"crop_shape": list(CROP), "eval_fixed_crop": True}
        for i, name in enumerate(cameras):
            core = robomimic_core(camera_weights(i), 0.5)
            weights |= {f"obs_encoder.obs_nets.{name}.{k}": v for k, v in core.items()}
    else:
        policy |= {"_target_": "x.DiffusionUnetImagePolicy", "obs_encoder": settings | encoder}
        for i, name in enumerate(cameras):
            inner = {k: v for k, v in camera_weights(i).items() if k.startswith("backbone.")}
            start = f"obs_encoder.key_model_map.{name}."
            weights |= {start + k.removeprefix("backbone."): v for k, v in inner.items()}
    network = unet(5 + len(cameras) * (FEATURES if hybrid else 512))
    payload = _workspace(config | {"policy": policy | changes}, network.state_dict(), {})
    normal = "normalizer.params_dict"
    state = payload["state_dicts"]["ema_model"]
    for key in [k for k in state if k.startswith(f"{normal}.obs.")]:
        first, second = state.pop(key).split([3, 2])
        inner = key.removeprefix(f"{normal}.obs.")
        state |= {f"{normal}.robot_eef.{inner}": first.clone()}
        state |= {f"{normal}.agent_pos.{inner}": second.clone()}
    for name in cameras:
        for key, value in (("scale", 2), ("offset", -1), ("input_stats.min", 0)):
            state[f"{normal}.{name}.{key}"] = torch.tensor([float(value)])
        state[f"{normal}.{name}.input_stats.max"] = torch.ones(1)
    state |= weights
    return payload, network


_KEPT = {"noise_scheduler", "horizon", "n_action_steps", "n_obs_steps", "num_inference_steps"}


def transformer_payload(**changes: Any) -> tuple[dict[str, Any], DenoisingTransformer]:
    """The same of a transformer."""
    averaged, last = transformer(5), transformer(5, seed=1)
    states = transformer_state(averaged), transformer_state(last)
    return _workspace(transformer_config(**changes), *states), averaged


def _workspace(
    config: dict[str, Any], averaged: dict[str, torch.Tensor], last: dict[str, torch.Tensor]
) -> dict[str, Any]:
    normal = {}
    for key, width, seed in (("obs", 5, 0), ("action", DA, 2)):
        stats = statistics(width, seed)
        scale = 2 / (stats["max"] - stats["min"])
        prefix = f"normalizer.params_dict.{key}"
        normal |= {f"{prefix}.scale": scale, f"{prefix}.offset": -1 - scale * stats["min"]}
        normal |= {f"{prefix}.input_stats.{k}": v for k, v in stats.items()}
    states = {
        name: OrderedDict(
            {"_dummy_variable": torch.zeros(0)}
            | {f"model.{k}": v for k, v in state.items()}
            | normal
        )
        for name, state in (("model", last), ("ema_model", averaged))
    }
    pickles = {"global_step": b"not looked into", "epoch": b"neither"}
    return {"cfg": OmegaConf.create(config), "state_dicts": states, "pickles": pickles}


ROBOMIMIC_SHAPES = {"object": [3], "robot0_eef_pos": [2], "unused": [4]}


def robomimic_config(**algo: Any) -> dict[str, Any]:
    """``config`` of robomimic 0.5.0's diffusion policy, cut to what counts."""
    return {
        "algo_name": "diffusion_policy",
        "train": {
            "action_keys": ["actions"],
            "action_config": {"actions": {"normalization": "min_max"}},
        },
        "observation": {
            "modalities": {
                "obs": {"low_dim": ["robot0_eef_pos", "object"], "rgb": [], "depth": []},
                "goal": {"low_dim": [], "rgb": []},
            },
            "encoder": {"low_dim": {"core_class": None}},
        },
        "algo": {
            "horizon": {"observation_horizon": TO, "action_horizon": TA, "prediction_horizon": T},
            "unet": {"enabled": True, "down_dims": [256, 512, 1024]},  # robomimic ignores these
            "ema": {"enabled": True, "power": 0.75},
            "ddpm": {
                "enabled": False,
                "num_train_timesteps": 100,
                "num_inference_timesteps": 100,
                "beta_schedule": "squaredcos_cap_v2",
                "clip_sample": True,
                "prediction_type": "epsilon",
            },
            "ddim": {
                "enabled": True,
                "num_train_timesteps": 20,
                "num_inference_timesteps": 5,
                "beta_schedule": "squaredcos_cap_v2",
                "clip_sample": True,
                "set_alpha_to_one": True,
                "steps_offset": 0,
                "prediction_type": "epsilon",
            },
        }
        | algo,
    }


def robomimic_cameras_payload(**rgb: Any) -> tuple[dict[str, Any], ConditionalUnet1d]:
    """The same, unnormalised, with the cameras of ``IMAGE_SHAPES`` between the other keys."""
    cameras = [k for k, shape in IMAGE_SHAPES.items() if len(shape) == 3]
    config = robomimic_config()
    config["observation"]["modalities"]["obs"]["rgb"] = cameras
    crop = {"crop_height": CROP[0], "crop_width": CROP[1], "num_crops": 1, "pos_enc": False}
    settings = {"core_class": "VisualCore", "obs_randomizer_class": "CropRandomizer"}
    config["observation"]["encoder"]["rgb"] = settings | {"obs_randomizer_kwargs": crop} | rgb
    payload, _ = robomimic_payload(config, stats=False)
    network = unet(5 + len(cameras) * FEATURES)
    nets = {f"policy.noise_pred_net.{k}": v for k, v in network.state_dict().items()}
    for i, name in enumerate(cameras):
        core = robomimic_core(camera_weights(i), 2.0)
        start = f"policy.obs_encoder.nets.obs.obs_nets.{name}."
        nets |= {start + k: v for k, v in core.items()}
    payload["model"]["ema"] = OrderedDict(nets)
    shapes = {"object": [3], "wrist": IMAGE_SHAPES["wrist"], "robot0_eef_pos": [2]}
    payload["shape_metadata"]["all_shapes"] = shapes | {"front": IMAGE_SHAPES["front"]}
    return payload, network


def robomimic_stats() -> tuple[dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(4)

    def some(width: int) -> dict[str, list[list[float]]]:
        offset, scale = rng.normal(size=(1, width)), rng.uniform(0.5, 3, (1, width))
        return {"offset": offset.tolist(), "scale": scale.tolist()}

    return {k: some(*v) for k, v in ROBOMIMIC_SHAPES.items()}, {"actions": some(DA)}


def robomimic_payload(
    config: dict[str, Any] | None = None, stats: bool = True
) -> tuple[dict[str, Any], ConditionalUnet1d]:
    """What ``robomimic.utils.train_utils.save_model`` saves, and the averaged network in it."""
    averaged, last = unet(5), unet(5, seed=1)
    nets = {
        name: OrderedDict(
            {f"policy.noise_pred_net.{k}": v for k, v in network.state_dict().items()}
        )
        for name, network in (("nets", last), ("ema", averaged))
    }
    payload = {
        "model": nets | {"optimizers": {}, "lr_schedulers": {}},
        "config": json.dumps(config or robomimic_config()),
        "algo_name": "diffusion_policy",
        "env_metadata": {"env_name": "Lift", "type": 1, "env_kwargs": {"control_freq": 20}},
        "shape_metadata": {"ac_dim": DA, "all_shapes": ROBOMIMIC_SHAPES, "use_images": False},
        "variable_state": {"epoch": 3},
    }
    if stats:
        observed, acted = robomimic_stats()
        payload |= {"obs_normalization_stats": observed, "action_normalization_stats": acted}
    return payload, averaged
