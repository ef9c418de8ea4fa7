"""LeRobot's MultiTaskDiTPolicy from its own folder, in float64; runs in LeRobot's environment.

The instruction's features, which we keep as float32, are compared; LeRobot's chunk is then computed
from ours, so that it shows the network and the sampler alone.
"""

from pathlib import Path
from typing import Any

import common
import torch
from run_lerobot import saved


@torch.inference_mode()
def answer(job: dict[str, Any], tensors: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Load the folder as LeRobot does, then observe, solve and un-normalise."""
    from importlib.metadata import version

    from lerobot.configs.policies import PreTrainedConfig

    try:
        from lerobot.policies.multi_task_dit import modeling_multi_task_dit as module
    except ModuleNotFoundError as error:
        raise common.NotHere("this LeRobot has no multi_task_dit") from error

    original = job["original"]
    folder, clip = Path(original["folder"]), original["clip"]
    config = PreTrainedConfig.from_pretrained(folder)
    config.device = "cpu"
    if clip is not None:
        config.vision_encoder_name = config.text_encoder_name = clip
    policy = module.MultiTaskDiTPolicy.from_pretrained(folder, config=config).double()
    before, after = saved(folder, {} if clip is None else {"tokenizer_name": clip})
    state = tensors["raw"]
    cameras = list(config.image_features)
    images = {name: common.pixels(tensors[f"image.{i}"]) for i, name in enumerate(cameras)}
    told = {"task": [original["instruction"]] * len(state)}
    batch = before({"observation.state": state} | images | told)
    theirs, seen, encoded = _encoded(policy, batch, tensors["extra"]["instruction"])
    _set_noise(policy, config, tensors)
    network = policy.noise_predictor
    chunk = policy.objective.conditional_sample(network, len(state), encoded)
    start = config.n_obs_steps - 1
    action = after(chunk[:, start : start + config.n_action_steps])
    outputs = {"seen": seen, "chunk": chunk, "action": action, "instruction": theirs}
    return f"lerobot {version('lerobot')}", outputs


def _encoded(
    policy: Any, batch: dict[str, Any], ours: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return LeRobot's features of the instruction, state and images, and the whole condition."""
    encoder, found = policy.observation_encoder, []

    def replaced(module: Any, given: Any, features: torch.Tensor) -> torch.Tensor:
        found.append(features)
        return ours.double().expand_as(features)

    encoder.text_encoder.register_forward_hook(replaced)
    whole = encoder.encode(policy._prepare_batch(batch))
    frames = whole.unflatten(1, (policy.config.n_obs_steps, -1))
    return found[0][0], frames[..., : -len(ours)].flatten(1), whole


def _set_noise(policy: Any, config: Any, tensors: dict[str, Any]) -> None:
    """Let LeRobot draw the given noise, and step in float64; the embedding stays float32."""
    embedding = policy.noise_predictor.time_mlp[0]
    embedding.register_forward_pre_hook(lambda m, given: (given[0].float(),))
    embedding.register_forward_hook(lambda m, i, out: out.double())
    if config.objective == "diffusion":
        common.feed_noise(tensors.get("steps"))
        common.schedule_to_double(policy.objective.noise_scheduler)
    line = torch.linspace
    torch.linspace = lambda *a, **k: line(*a, **k | {"dtype": torch.float64})
    torch.randn = lambda *a, **k: tensors["initial"].clone()  # the chunk is drawn inside


if __name__ == "__main__":
    common.run(answer)
