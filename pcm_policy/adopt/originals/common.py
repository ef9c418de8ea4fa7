"""Shared by the scripts that run an original implementation; knows nothing of pcm_policy."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


class NotHere(Exception):
    """The original that is installed cannot check this checkpoint; the message says why."""


def stub_vision_operators() -> None:
    """Declare the operators that torchvision registers shapes for when its library cannot load.

    Beside a CPU torch the published wheel's library does not load, and torchvision stops at its
    own first registration. No images are used here, so the declarations are enough.
    """
    import importlib.util

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    try:
        for file in Path(found.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(file))
        torch.ops.torchvision.nms  # noqa: B018  a missing operator raises here
    except (OSError, AttributeError, RuntimeError):
        global _library  # the declarations live as long as this object
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def to_double(network: torch.nn.Module, scheduler: Any) -> None:
    """Run network and scheduler in float64; the step's embedding stays float32, as in training."""
    network.double()
    transformer = hasattr(network, "time_emb")
    embedding = network.time_emb if transformer else network.diffusion_step_encoder[0]
    embedding.register_forward_hook(lambda m, i, out: out.double())
    schedule_to_double(scheduler)


def schedule_to_double(scheduler: Any) -> None:
    """Let a scheduler of diffusers step in float64."""
    for name in ("betas", "alphas", "alphas_cumprod", "one", "final_alpha_cumprod"):
        if hasattr(scheduler, name):
            setattr(scheduler, name, getattr(scheduler, name).double())


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Map ``(..., H, W, 3)`` uint8 to ``(..., 3, H, W)`` in [0, 1], float64."""
    return images.movedim(-1, -3).double() / 255


def feed_noise(steps: torch.Tensor | None) -> None:
    """Let diffusers draw the noise of its steps from ``(N, B, T, Da)`` instead of a generator."""
    import diffusers.schedulers.scheduling_ddim as ddim
    import diffusers.schedulers.scheduling_ddpm as ddpm

    rows = iter(() if steps is None else steps)
    for module in (ddpm, ddim):
        module.randn_tensor = lambda *a, **k: next(rows)


def run(answer: Callable[[dict[str, Any], dict[str, Any]], tuple[str, dict[str, Any]]]) -> None:
    """Read the job, let ``answer(job, tensors)`` run the original, write what it returns."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    tensors: dict[str, Any] = load_file(folder / "inputs.safetensors")
    for name in ("weights", "extra"):
        tensors[name] = load_file(folder / f"{name}.safetensors")
    try:
        version, outputs = answer(job, tensors)
    except (ModuleNotFoundError, NotHere) as error:
        print(error, file=sys.stderr)
        sys.exit(3)
    outputs = {k: v.detach().double().contiguous() for k, v in outputs.items()}
    save_file(outputs, folder / "outputs.safetensors")
    (folder / "version.json").write_text(json.dumps(version))
