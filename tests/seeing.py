"""A small policy with two cameras that nobody trained, and what it sees."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pcm_policy import DiffusionPolicy, PolicyConfig
from pcm_policy.control import Controller, Plan, PlanRequest
from pcm_policy.networks.clip import TowerConfig
from pcm_policy.policy.vision import Vision, VisionConfig
from pcm_policy.sampling.samplers import SamplerConfig

DDIM = SamplerConfig("ddim", 6)
VISION = VisionConfig(
    layout=(2, "top", 1, "wrist"),
    cameras={"top": (40, 52), "wrist": (36, 36)},
    crop=(34, 33),
    keypoints=4,
    features=3,
)
SHARED = replace(VISION, shared=True)
ALONE = replace(VISION, layout=("wrist", "top"), resize=(36, 36))
CLIP = replace(
    VISION,
    **{"backbone": "clip", "norm": "layer", "keypoints": 0, "features": 0, "crop": None},
    resize=(33, 34),
    vit=TowerConfig(width=8, depth=1, heads=2, inner=8, patch=8, positions=17),
)
MEANS = replace(ALONE, shared=True, keypoints=0, features=0, norm="batch")
EYES = {"shared": SHARED, "clip": CLIP, "means": MEANS}
Obs = dict[str, np.ndarray[Any, Any]]


def make(vision: VisionConfig = VISION, sharp: float = 30.0, **changes: Any) -> DiffusionPolicy:
    """Build the policy; the sharper its keypoints, the more its features differ with the image."""
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "step_embed_dim": 8}
    config = PolicyConfig(vision.obs_dim, 2, 8, 2, 4, "mlp", small, sampler=DDIM, vision=vision)
    policy = DiffusionPolicy(replace(config, **{"prediction": "sample"} | changes))
    for value in policy.network.parameters():
        value.data += 0.2 * torch.randn_like(value)
    for encoder in policy.vision.encoders:  # type: ignore[union-attr]
        if encoder.pool is not None:
            encoder.pool.nets.weight.data *= sharp
    normal = policy.obs_normalizer
    normal.low.fill_(-torch.inf)
    normal.high.fill_(torch.inf)
    columns = torch.tensor(vision.state_columns, dtype=torch.long)
    if len(columns):
        normal.scale[0], normal.shift[0] = 0.5, 1.0
    normal.low[columns], normal.high[columns] = -4.0, 4.0
    policy.action_normalizer.low.fill_(-1.0)
    policy.action_normalizer.high.fill_(1.0)
    return policy


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let encoders return means of parts of an image: what is tested is who encodes what, when."""

    def encode(
        self: Vision, images: Mapping[str, Tensor], places: Tensor | None = None
    ) -> dict[str, Tensor]:
        time.sleep(1e-4)
        width = self.config.feature_dim
        found = {}
        for name, x in images.items():
            parts = [x[:, i::width].float().mean((1, 2, 3)) / 255 for i in range(width)]
            found[name] = torch.stack(parts, 1)
        return found

    monkeypatch.setattr(Vision, "encode", encode)


def draw(batch: int | None = 2, seed: int = 0) -> Obs:
    """Return observations as ``predict`` takes them."""
    rng = np.random.default_rng(seed)
    lead = (2,) if batch is None else (batch, 2)
    found: Obs = {"state": rng.uniform(-2, 2, (*lead, 3)).astype(np.float32)}
    for name, size in VISION.cameras.items():
        found[name] = rng.integers(0, 256, (*lead, *size, 3), dtype=np.uint8)
        found[name][..., : size[0] // 2, :, :] //= 4
    return found


def glance(seed: int, without: str | None = None) -> Obs:
    """Return what is seen in one tick, as an environment gives it."""
    return {k: v[0] for k, v in draw(None, seed).items() if k != without}


def drive(
    controller: Controller, planner: Any, seen: Iterable[Obs], early: bool = True
) -> list[tuple[PlanRequest, Plan]]:
    """Take a controller through ticks; a plan is there in the tick after its request."""
    found: list[tuple[PlanRequest, Plan]] = []
    waiting: Plan | None = None
    for observation in seen:
        controller.observe(observation)
        if waiting is not None:
            controller.accept(waiting, 10.0)
            waiting = None
        request = controller.request()
        if request is not None:
            waiting = planner.plan(request)
            found.append((request, waiting))
        elif early and controller.newest is not None:
            planner.see(controller.newest)
        controller.act()
    return found
