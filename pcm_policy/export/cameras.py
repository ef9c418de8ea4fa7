"""The camera encoder of a robot's folder, and frames to compare it by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcm_policy.control.plan import Image
from pcm_policy.export.graphs import Write
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import Vision
from pcm_policy.robot.cameras import Cameras
from pcm_policy.serving.features import frame_encoder

FILE = "encoder.onnx"
BLOCK = 8
"""Pixels of one colour side by side in a made-up image."""


@dataclass(frozen=True)
class Look:
    """What a policy sees at one time.

    Attributes:
        state: ``(To, n)`` raw numbers.
        images: ``(H, W, 3)`` of every camera, of one frame, which stands for all.
        obs: ``(1, To, Do)`` what the policy makes of it.
    """

    state: Tensor
    images: Mapping[str, Image]
    obs: Tensor


@torch.no_grad()
def look(policy: DiffusionPolicy, seed: int) -> Look:
    """Return a held-out observation of a policy, or one from the range of its training.

    Images are drawn: nobody's camera is copied to every robot.

    Args:
        policy: on the CPU; without cameras there are no images.
        seed: names the observation.
    """
    config, vision = policy.config, policy.vision
    generator = torch.Generator().manual_seed(seed)
    if policy.held_out is not None and len(policy.held_out):
        obs = policy.held_out[:1].clone()
    else:
        shape = (1, config.obs_steps, config.obs_dim)
        obs = policy.obs_normalizer.unnormalize(2 * torch.rand(shape, generator=generator) - 1)
    if vision is None:
        return Look(obs[0], {}, obs)
    state = obs[0][:, vision.config.state_columns]
    images = {name: drawn_image(size, seed) for name, size in vision.config.cameras.items()}
    tensors = {name: torch.from_numpy(image)[None] for name, image in images.items()}
    features = {k: v.expand(1, config.obs_steps, -1) for k, v in vision.encode(tensors).items()}
    return Look(state, images, vision.join(state[None], features))


def drawn_image(size: tuple[int, int], seed: int) -> Image:
    """Return blocks of random colours, ``(H, W, 3)``."""
    height, width = size
    blocks = (-(-height // BLOCK), -(-width // BLOCK), 3)
    colours = np.random.default_rng(seed).integers(0, 256, blocks, dtype=np.uint8)
    return colours.repeat(BLOCK, axis=0).repeat(BLOCK, axis=1)[:height, :width].copy()


def write_encoder(policy: DiffusionPolicy, vision: Vision, folder: Path, write: Write) -> Cameras:
    """Write what encodes one frame, alone, all its cameras together; returns its description.

    Args:
        policy: whose normaliser knows the ranges of features.
        vision: its encoders.
        folder: gets the graph.
        write: writes it.
    """
    config = vision.config
    names, width = tuple(config.cameras), config.feature_dim
    images = [torch.zeros(1, *size, 3, dtype=torch.uint8) for size in config.cameras.values()]
    write(frame_encoder(vision), images, folder / FILE)
    count = torch.arange(len(names) * width).view(len(names), width)
    features = dict(zip(names, count, strict=True))
    places = vision.join(torch.full((config.state_dim,), -1), features)
    columns = places.argsort(stable=True)[config.state_dim :]  # of every feature in the vector
    normal, known = policy.obs_normalizer, policy.obs_normalizer.low.isfinite()
    ranges = normal.low, normal.high, torch.where(known, normal.unit, 1.0)
    low, high, unit = (tuple(values[columns].tolist()) for values in ranges)
    return Cameras(FILE, names, tuple(config.layout), width, low, high, unit)
