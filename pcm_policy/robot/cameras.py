"""The cameras of a robot's policy: each frame becomes features once, by a graph of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import text, whole
from pcm_policy.control.features import FAULT, KeptFeatures
from pcm_policy.control.frames import image_fault
from pcm_policy.control.plan import Image, PlanRequest
from pcm_policy.control.settings import PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.fields import laid_out
from pcm_policy.robot.engine import Open
from pcm_policy.robot.memory import Floats

MOST_FEATURES = 100_000


@dataclass(frozen=True)
class Cameras:
    """What ``robot.json`` says of the encoder; the images' sizes are in its ``spec``.

    Attributes:
        file: a graph from images ``(1, H, W, 3)`` uint8 to features ``(cameras, F)``.
        names: the cameras in the order of its inputs.
        layout: the observation vector from left to right; a number stands for so many columns of
            the state, a name for the features of that camera.
        width: ``F``, features of one camera.
        low: ``(cameras F,)`` smallest features in training, in the order of ``names``.
        high: the same, largest.
        unit: what one training range of a feature is.
    """

    file: str
    names: tuple[str, ...]
    layout: tuple[int | str, ...]
    width: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    unit: tuple[float, ...]


def read_cameras(values: Mapping[str, Any] | None, spec: PolicySpec) -> Cameras | None:
    """Rebuild from JSON whose unknown ends of ranges are infinite again.

    Raises:
        ValueError: it does not fit the policy's description.
        KeyError: an entry is missing.
    """
    if (values is None) != (not spec.cameras):
        raise ValueError("its encoder does not fit its cameras")
    if values is None:
        return None
    names = tuple(text("camera", name) for name in values["names"])
    layout = tuple(p if isinstance(p, str) else whole("layout", p) for p in values["layout"])
    width = whole("width", values["width"], 1, MOST_FEATURES)
    columns = sum(part for part in layout if not isinstance(part, str))
    placed = [part for part in layout if isinstance(part, str)]
    if not sorted(names) == sorted(placed) == sorted(spec.cameras) or columns != spec.obs_dim:
        raise ValueError(f"layout {list(layout)} does not fit its cameras and its state")
    ranges = {k: np.array(values[k], np.float64) for k in ("low", "high", "unit")}
    if any(one.shape != (len(names) * width,) for one in ranges.values()):
        raise ValueError("ranges of features have another width")
    if not bool((ranges["unit"] > 0).all() and (ranges["low"] <= ranges["high"]).all()):
        raise ValueError("ranges of features are no ranges")
    found = {name: tuple(one.tolist()) for name, one in ranges.items()}
    return Cameras(text("file", values["file"]), names, layout, width, **found)


class Sight:
    """From frames to the observations of a solve: :mod:`pcm_policy.serving.features` in numpy.

    Args:
        cameras: what the folder says of them; None for a policy that has none.
        spec: shapes and ranges of the policy.
        folder: where the encoder is.
        open_graph: opens it.

    Attributes:
        features: of frames, ``(cameras, F)``.
    """

    def __init__(
        self, cameras: Cameras | None, spec: PolicySpec, folder: Path, open_graph: Open
    ) -> None:
        self._cameras, self._spec = cameras, spec
        self._call = None if cameras is None else open_graph(folder / cameras.file)
        self.features: KeptFeatures[Floats] = KeptFeatures(
            None if cameras is None else lambda frame: self.encode(frame.images)
        )

    def encode(self, images: Mapping[str, Image]) -> Floats:
        """Return the features of one frame, ``(cameras, F)``.

        Args:
            images: ``(H, W, 3)`` uint8 of every camera.

        Raises:
            PcmError: an image is missing, or of another shape or type.
        """
        cameras = self._cameras
        assert cameras is not None
        assert self._call is not None
        for name in cameras.names:
            fault = image_fault(name, images.get(name), self._spec.cameras[name])
            if fault is not None:
                raise PcmError(fault)
        (found,) = self._call([np.ascontiguousarray(images[name][None]) for name in cameras.names])
        features: Floats = found
        return features

    def join(self, state: Floats, features: Sequence[Floats]) -> Floats:
        """Return the observation ``(1, To, Do)`` of a state ``(To, n)`` and features by frame."""
        if self._cameras is None:
            return np.ascontiguousarray(state[None])
        by_camera = np.stack(features, axis=1)  # (cameras, To, F)
        named = dict(zip(self._cameras.names, by_camera, strict=True))
        parts = laid_out(self._cameras.layout, state, named)
        return np.ascontiguousarray(np.concatenate(parts, axis=-1, dtype=np.float32)[None])

    def requested(self, request: PlanRequest, state: Floats) -> tuple[Floats, str | None]:
        """Return the observation of a request, and what is wrong with its features.

        Args:
            request: its frames are encoded.
            state: ``(To, n)``, checked.

        Raises:
            PcmError: it has another number of frames than the policy observes.
        """
        if self._cameras is None:
            return self.join(state, ()), None
        if len(request.frames) != self._spec.obs_steps:
            raise PcmError(
                f"the request has {len(request.frames)} frames: this policy has cameras and "
                f"observes {self._spec.obs_steps}"
            )
        found = [self.features[frame] for frame in request.frames]
        return self.join(state, found), self.fault(found)

    def fault(self, features: Sequence[Floats]) -> str | None:
        """Say what is wrong with features, frame by frame, or nothing."""
        cameras = self._cameras
        if cameras is None:
            return None
        low, high, unit = (np.array(v) for v in (cameras.low, cameras.high, cameras.unit))
        flat: NDArray[np.float64] = np.stack(features).astype(np.float64).reshape(-1, len(low))
        excess = (np.maximum(low - flat, 0) + np.maximum(flat - high, 0)) / unit
        return None if bool((excess <= self._spec.max_excess).all()) else FAULT
