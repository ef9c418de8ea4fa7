"""The self-check: the original implementation on the same weights, in a process of its own.

The original lives in an environment of its own, so a child process runs a script of
:mod:`pcm_policy.adopt.originals` there. It gets observations and noise, and returns what it made
of them, in float64: its normalised observation, its chunk and its actions.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcm_policy.adopt.build import Imported
from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.noise import Noise
from pcm_policy.solvers.sequential import sequential

_PATCH = 5  # pixels
CHUNK = 1e-6
"""Largest difference of the normalised chunk, given the same normalised observation, float64."""
ENDS = 1e-4
"""Largest difference of normalised observations and actions: our normaliser stores float32."""


@dataclass(frozen=True)
class SelfCheck:
    """How far our sequential sampler is from the original, in normalised units.

    Attributes:
        original: name and version of the original.
        observation: largest difference of the normalised observation.
        chunk: largest difference of the chunk from the original's normalised observation.
        action: largest difference of the executed actions, over the action's unit.
    """

    original: str
    observation: float
    chunk: float
    action: float

    @property
    def passed(self) -> bool:
        """Whether all three are within their tolerances."""
        return self.observation <= ENDS and self.chunk <= CHUNK and self.action <= ENDS

    def describe(self) -> str:
        """Return one line."""
        return (
            f"self-check against {self.original}, float64: observation {self.observation:.1e}, "
            f"chunk {self.chunk:.1e}, action {self.action:.1e}"
        )


@torch.inference_mode()
def self_check(
    imported: Imported, python: str | None = None, batch: int = 4, seed: int = 0
) -> SelfCheck | str:
    """Compare a fresh import with the original.

    Args:
        imported: what was read.
        python: Python in whose environment the original is installed; None for this one.
        batch: random observations, uniform over the normalised range.
        seed: of observations and noise.

    Returns:
        The differences, or why there is none: mostly that the original is not installed there.

    Raises:
        PcmError: they are too large, or the original's process failed.
    """
    policy = imported.policy().double()
    config = policy.config
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, config.obs_steps, config.obs_dim)
    uniform = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    raw = policy.obs_normalizer.unnormalize(uniform)
    images = {}
    if config.vision is not None:
        images = _images(config.vision, shape[:2], generator)
    sampler = policy.sampler(config.sampler)
    chunk = (batch, *config.chunk_shape)
    steps = (sampler.steps, *chunk) if sampler.stochastic else (0, *chunk)
    noise = Noise(
        torch.randn(chunk, generator=generator, dtype=torch.float64),
        torch.randn(steps, generator=generator, dtype=torch.float64) if steps[0] else None,
    )
    inputs = {"raw": raw, "initial": noise.initial}
    if policy.vision is not None:
        state = raw[..., policy.vision.config.state_columns]
        raw = policy.vision(state, images)
        inputs["raw"] = state
        inputs |= {f"image.{i}": image for i, image in enumerate(images.values())}
    if noise.steps is not None:
        inputs["steps"] = noise.steps
    answer = _ask(imported, inputs, python)
    if isinstance(answer, str):
        return answer
    name, outputs = answer
    found = _compare(policy, raw, noise, name, outputs, imported.extra)
    if not found.passed:
        raise PcmError(f"{imported.file}: {found.describe()}: too far apart, nothing was written")
    return found


def _images(
    vision: VisionConfig, lead: tuple[int, int], generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw ``(B, To, H, W, 3)`` for every camera: patches, so that crops and resizing show."""
    found = {}
    for name, (height, width) in vision.cameras.items():
        rows, columns = (-(-n // _PATCH) for n in (height, width))
        coarse = torch.randint(256, (*lead, rows, columns, 3), generator=generator)
        fine = coarse.repeat_interleave(_PATCH, 2).repeat_interleave(_PATCH, 3)
        found[name] = fine[:, :, :height, :width].to(torch.uint8)
    return found


def _compare(
    policy: DiffusionPolicy,
    raw: Tensor,
    noise: Noise,
    name: str,
    outputs: Mapping[str, Tensor],
    fixed: Mapping[str, Tensor],
) -> SelfCheck:
    """Compare what both made of the same inputs; ``fixed`` is part of our observation."""
    config = policy.config
    apart = [fixed[k] - outputs[k] for k in fixed if k in outputs]
    seen = policy.obs_normalizer.normalize(raw).flatten(1)
    denoise = policy.denoiser(outputs["seen"], config.sampler)
    ours = sequential(denoise, noise).sample
    ours = ours[..., : config.action_dim]
    first = config.obs_steps - 1
    action = policy.action_normalizer.unnormalize(ours)[:, first : first + config.action_steps]
    gap = (action - outputs["action"]) * policy.action_normalizer.scale.clamp(max=1e4)
    return SelfCheck(
        name,
        max(float(gap.abs().max()) for gap in [seen - outputs["seen"], *apart]),
        float((ours - outputs["chunk"]).abs().max()),
        float(gap.abs().max()),
    )


def _ask(
    imported: Imported, inputs: Mapping[str, Tensor], python: str | None
) -> tuple[str, dict[str, Tensor]] | str:
    script = Path(__file__).parent / "originals" / f"run_{imported.kind}.py"
    if python is not None and not Path(python).exists():
        raise PcmError(f"original_python={python} does not exist: name a Python executable")
    kept = {k: v for k, v in os.environ.items() if python is None or k != "PYTHONPATH"}
    with tempfile.TemporaryDirectory(prefix="pcm-import-") as name:
        folder = Path(name)
        config = imported.config.to_dict()
        job = {"config": config, "original": dict(imported.original)}
        (folder / "job.json").write_text(json.dumps(job))
        save_file({k: v.contiguous() for k, v in inputs.items()}, folder / "inputs.safetensors")
        for file, tensors in (("weights", imported.weights), ("extra", imported.extra)):
            whole = {k: v.contiguous() for k, v in tensors.items()}
            save_file(whole, folder / f"{file}.safetensors")
        done = subprocess.run(
            [python or sys.executable, str(script), name],
            capture_output=True,
            text=True,
            check=False,
            env=kept | {"HF_HUB_OFFLINE": "1"},
        )
        if done.returncode == 3:
            return done.stderr.strip().splitlines()[-1]
        if done.returncode != 0 or not (folder / "outputs.safetensors").exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PcmError(
                f"{imported.file}: the original implementation failed ({last}): self_check=false "
                "imports without it"
            )
        version = json.loads((folder / "version.json").read_text())
        return str(version), load_file(folder / "outputs.safetensors")
