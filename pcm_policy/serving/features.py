"""Every frame is encoded once: features are kept for as long as somebody keeps the frame."""

import time
from collections.abc import Mapping, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from pcm_policy.control.plan import Frame, PlanRequest
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import Vision
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.recorded import Function
from pcm_policy.solvers.deadline import synchronize


def encoder(policy: DiffusionPolicy, vision: Vision, example: Sequence[Tensor]) -> Function:
    """Return what encodes one frame, in the engine that solves, if that is one.

    Args:
        policy: with a runtime or without.
        vision: its encoders.
        example: images ``(1, H, W, 3)`` uint8, camera by camera; what is returned takes their like
            and returns ``(1, F)`` for each.
    """

    def encode(images: Sequence[Tensor]) -> tuple[Tensor, ...]:
        names = vision.config.cameras
        return tuple(vision.encode(dict(zip(names, images, strict=True))).values())

    execute = policy.execute
    if isinstance(execute, Runtime) and isinstance(execute.mode, Engine):
        return execute.mode.recorder(vision, execute.config)(encode, example)
    return encode


class Features:
    """From frames to the observations of a solve.

    Features belong to their frame object: a controller that starts an episode, or a robot that
    hangs up, drops its frames, and the features go with them. A frame is encoded alone, all its
    cameras together, so that no robot's features depend on another's.

    Args:
        policy: the policy; one without cameras has nothing to encode.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        self._policy, self._vision = policy, policy.vision
        self._encode: Function | None = None
        self._kept: WeakKeyDictionary[Frame, Mapping[str, Tensor]] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Frames whose features are kept."""
        return len(self._kept)

    @torch.inference_mode()
    def see(self, frame: Frame) -> float:
        """Encode a frame, unless that is done already; returns the milliseconds it took."""
        if self._vision is None or frame in self._kept:
            return 0.0
        begin, device = time.perf_counter(), self._policy.device
        cameras = list(self._vision.config.cameras)
        images = [torch.from_numpy(frame.images[name])[None].to(device) for name in cameras]
        if self._encode is None:
            self._encode = encoder(self._policy, self._vision, images)
        self._kept[frame] = dict(zip(cameras, self._encode(images), strict=True))
        synchronize(device)
        return (time.perf_counter() - begin) * 1e3

    def late(self, request: PlanRequest) -> int:
        """Return how many frames before a request's newest one are not encoded yet."""
        older = set(request.frames[:-1]) - set(request.frames[-1:])
        return sum(frame not in self._kept for frame in older)

    @torch.inference_mode()
    def observations(self, requests: Sequence[PlanRequest]) -> Tensor:
        """Return the raw observations ``(B, To, Do)`` of requests whose frames are encoded."""
        state = torch.from_numpy(np.stack([r.obs for r in requests]).astype(np.float32))
        state = state.to(self._policy.device, self._policy.dtype)
        if self._vision is None:
            return state
        features = {
            name: torch.stack(
                [torch.cat([self._kept[f][name] for f in r.frames]) for r in requests]
            )
            for name in self._vision.config.cameras
        }
        return self._vision.join(state, features)

    def faults(self, obs: Tensor) -> list[str | None]:
        """Say what is wrong with the features in observations ``(B, To, Do)``, row by row.

        The controller has checked the numbers; features, it never sees.
        """
        if self._vision is None:
            return [None] * len(obs)
        excess = self._policy.obs_normalizer.excess(obs).flatten(1).amax(1)
        good = (excess <= self._policy.config.max_excess).tolist()
        fault = "features of the images are not finite, or out of range"
        return [None if fine else fault for fine in good]
