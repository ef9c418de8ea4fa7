"""LeRobot's side of a comparison; runs in LeRobot's own environment, knows nothing of ours.

    python serve_lerobot.py FOLDER

reads ``job.json``, ``weights.safetensors`` and ``inputs.safetensors`` in the folder, writes
``chunks.safetensors``, prints ``ready`` and LeRobot's version and then answers every line of its
input until that ends: a seed with the milliseconds of one call, ``memory`` with the bytes that a
call takes.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from common import stub_vision_operators
from memory import peak_memory
from safetensors.torch import load_file, save_file


def build(job: dict, weights: dict):
    """Build LeRobot's policy from the job's settings and load the weights into its U-Net."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

    dims = job["dims"]
    config = DiffusionConfig(
        input_features={
            "observation.state": PolicyFeature(FeatureType.STATE, (dims["state"],)),
            "observation.environment_state": PolicyFeature(FeatureType.ENV, (dims["env"],)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (dims["action"],))},
        device=job["device"],
        **job["config"],
    )
    policy = DiffusionPolicy(config)
    policy.diffusion.unet.load_state_dict(weights)
    return policy.to(job["device"]).eval()


@torch.inference_mode()
def solve(policy, batch: dict, initial: torch.Tensor | None, seed: int) -> torch.Tensor:
    """Run LeRobot's own loop on normalised observations.

    Args:
        policy: LeRobot's policy.
        batch: ``observation.state (B, To, Ds)`` and ``observation.environment_state (B, To, De)``.
        initial: ``(B, T, Da)`` initial noise, or None to draw it from the seed.
        seed: seed of all further noise.

    Returns:
        The normalised chunk ``(B, T, Da)``.
    """
    model = policy.diffusion
    cond = model._prepare_global_conditioning(batch)
    generator = torch.Generator(cond.device).manual_seed(seed)
    if initial is not None:  # the parent drew it from this generator: take it out of the stream
        torch.randn(initial.shape, generator=generator, device=cond.device)
    return model.conditional_sample(len(cond), cond, generator=generator, noise=initial)


def main(folder: Path) -> None:
    """Answer one job."""
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(job["threads"])
    torch.backends.cuda.matmul.allow_tf32 = job["tf32"]
    torch.backends.cudnn.allow_tf32 = job["tf32"]
    policy = build(job, load_file(folder / "weights.safetensors"))
    inputs = {k: v.to(job["device"]) for k, v in load_file(folder / "inputs.safetensors").items()}
    initial = inputs.pop("initial")  # (n, B, T, Da), one row a seed
    batches = [{k: v[i] for k, v in inputs.items()} for i in range(len(initial))]
    chunks = [solve(policy, b, initial[i], job["seeds"][i]) for i, b in enumerate(batches)]
    save_file({"chunks": torch.stack(chunks).cpu()}, folder / "chunks.safetensors")
    print(f"ready {name_of()}", flush=True)
    for line in sys.stdin:
        if line.strip() == "memory":
            call = lambda: solve(policy, batches[0], None, 0)  # noqa: E731
            print(peak_memory(call, torch.device(job["device"])), flush=True)
            continue
        seed = int(line)
        wait()
        start = time.perf_counter()
        solve(policy, batches[seed % len(batches)], None, seed)
        wait()
        print((time.perf_counter() - start) * 1e3, flush=True)


def name_of() -> str:
    """Return what runs here."""
    return f"lerobot {version('lerobot')}, diffusers {version('diffusers')}"


def wait() -> None:
    """Wait until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    stub_vision_operators()
    if sys.argv[1] == "--version":
        import lerobot.policies.diffusion.modeling_diffusion  # noqa: F401

        print(name_of())
    else:
        main(Path(sys.argv[1]))
