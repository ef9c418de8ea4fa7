"""LeRobot's DiffusionPolicy from its own folder, in float64; runs in LeRobot's environment.

A folder without processor files is one from before LeRobot 0.4. Its statistics are taken out of
its weights by LeRobot's own migration code.
"""

from pathlib import Path
from typing import Any

import common
import torch
from safetensors.torch import load_file

ENV = "observation.environment_state"


@torch.inference_mode()
def answer(job: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Load the folder as LeRobot does, then observe, solve and un-normalise."""
    common.stub_vision_operators()
    from importlib.metadata import version

    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    folder = Path(job["original"]["folder"])
    if "input_shapes" in (folder / "config.json").read_text():
        raise common.NotHere("this LeRobot cannot read a config of before 0.1")
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = "cpu"
    has_processors = (folder / "policy_preprocessor.json").is_file()
    policy = DiffusionPolicy.from_pretrained(folder, config=config, strict=has_processors)
    model = policy.diffusion
    common.to_double(model.unet, model.noise_scheduler)
    cameras = list(config.image_features)
    if cameras:
        model.rgb_encoder.double()
    common.feed_noise(tensors.get("steps"))
    before, after = saved(folder) if has_processors else _migrated(folder, config)
    widths = job["original"]["widths"]
    parts = tensors["raw"].split(list(widths.values()), dim=-1)
    images = {name: common.pixels(tensors[f"image.{i}"]) for i, name in enumerate(cameras)}
    batch = before(dict(zip(widths, parts, strict=True)) | images)
    if cameras:  # as in DiffusionPolicy.select_action
        batch["observation.images"] = torch.stack([batch[name] for name in cameras], dim=-4)
    seen = model._prepare_global_conditioning(batch)
    chunk = model.conditional_sample(len(seen), seen, noise=tensors["initial"])
    start = config.n_obs_steps - 1
    action = after(chunk[:, start : start + config.n_action_steps])
    return f"lerobot {version('lerobot')}", {"seen": seen, "chunk": chunk, "action": action}


def saved(folder: Path, tokenizer: dict[str, Any] | None = None) -> tuple[Any, Any]:
    """Return the processors of a folder; ``tokenizer`` changes the step that reads a text."""
    from lerobot.processor import PolicyProcessorPipeline
    from lerobot.processor.converters import (
        policy_action_to_transition,
        transition_to_policy_action,
    )

    before = PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename="policy_preprocessor.json",
        overrides={"device_processor": {"device": "cpu"}}
        | ({"tokenizer_processor": tokenizer} if tokenizer else {}),
    )
    after = PolicyProcessorPipeline.from_pretrained(
        folder,
        config_filename="policy_postprocessor.json",
        to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )
    return before, after


def _migrated(folder: Path, config: Any) -> tuple[Any, Any]:
    from lerobot.policies.diffusion.processor_diffusion import make_diffusion_pre_post_processors
    from lerobot.processor.migrate_policy_normalization import extract_normalization_stats

    stats = extract_normalization_stats(load_file(folder / "model.safetensors"))
    # the migration writes every underscore of a name as a dot
    stats = {k.replace(ENV.replace("_", "."), ENV): v for k, v in stats.items()}
    return make_diffusion_pre_post_processors(config, stats)


if __name__ == "__main__":
    common.run(answer)
