"""From frames to the observations of a solve, in torch; every frame is encoded once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pcm_policy.control.features import FAULT, KeptFeatures
from pcm_policy.control.plan import Frame, PlanRequest
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.policy.vision import Vision
from pcm_policy.runtime.engine import Engine
from pcm_policy.runtime.execute import Runtime
from pcm_policy.runtime.recorded import Function
from pcm_policy.solvers.deadline import synchronize


def frame_encoder(vision: Vision) -> Function:
    """Return what encodes one frame.

    It takes images ``(1, H, W, 3)`` uint8, camera by camera, and returns their features side by
    side, ``(cameras, F)``: one tensor, so that an engine is checked for every camera.
    """

    def encode(images: Sequence[Tensor]) -> tuple[Tensor, ...]:
        named = dict(zip(vision.config.cameras, images, strict=True))
        return (torch.cat(list(vision.encode(named).values())),)

    return encode


def encoder(policy: DiffusionPolicy, vision: Vision, example: Sequence[Tensor]) -> Function:
    """Return what encodes one frame, in the engine that solves, if that is one.

    Args:
        policy: with a runtime or without.
        vision: its encoders.
        example: images of a frame, as :func:`frame_encoder` takes them.
    """
    execute = policy.execute
    if isinstance(execute, Runtime) and isinstance(execute.mode, Engine):
        return execute.mode.recorder(vision, execute.config)(frame_encoder(vision), example)
    return frame_encoder(vision)


class Features(KeptFeatures[Tensor]):
    """The features of frames, ``(cameras, F)``, on a policy's device.

    Args:
        policy: the policy; one without cameras has nothing to encode.
    """

    def __init__(self, policy: DiffusionPolicy) -> None:
        self._policy, self._vision = policy, policy.vision
        self._run: Function | None = None
        super().__init__(None if self._vision is None else self._encoded)

    @torch.inference_mode()
    def _encoded(self, frame: Frame) -> Tensor:
        vision, device = self._vision, self._policy.device
        assert vision is not None
        cameras = vision.config.cameras
        images = [torch.from_numpy(frame.images[name])[None].to(device) for name in cameras]
        if self._run is None:
            self._run = encoder(self._policy, vision, images)
        (found,) = self._run(images)
        synchronize(device)
        return found

    @torch.inference_mode()
    def observations(self, requests: Sequence[PlanRequest]) -> Tensor:
        """Return the raw observations ``(B, To, Do)`` of requests whose frames are encoded."""
        state = torch.from_numpy(np.stack([r.obs for r in requests]).astype(np.float32))
        state = state.to(self._policy.device, self._policy.dtype)
        if self._vision is None:
            return state
        kept = torch.stack([torch.stack([self[f] for f in r.frames]) for r in requests])
        features = dict(zip(self._vision.config.cameras, kept.unbind(2), strict=True))
        return self._vision.join(state, features)

    def faults(self, obs: Tensor) -> list[str | None]:
        """Say what is wrong with the features in observations ``(B, To, Do)``, row by row."""
        if self._vision is None:
            return [None] * len(obs)
        excess = self._policy.obs_normalizer.excess(obs).flatten(1).amax(1)
        good = (excess <= self._policy.config.max_excess).tolist()
        return [None if fine else FAULT for fine in good]
