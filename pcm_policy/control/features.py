"""Every frame is encoded once: features are kept for as long as somebody keeps the frame."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

from pcm_policy.control.plan import Frame, PlanRequest

T = TypeVar("T")
FAULT = "features of the images are not finite, or out of range"
"""What a planner says of features: the controller has checked the numbers and never sees them."""


class KeptFeatures(Generic[T]):
    """Features of frames.

    They belong to their frame object: a controller that starts an episode, or a robot that hangs
    up, drops its frames, and the features go with them. A frame is encoded alone, all its cameras
    together, so that no robot's features depend on another's.

    Args:
        encode: returns the features of a frame; None for a policy without cameras, which has
            nothing to encode.

    Example:
        >>> import numpy as np
        >>> kept = KeptFeatures(lambda frame: frame.images["top"].mean())
        >>> frame = Frame(np.zeros(2, np.float32), {"top": np.full((4, 4, 3), 7, np.uint8)})
        >>> kept.see(frame) > 0, kept.see(frame), float(kept[frame])
        (True, 0.0, 7.0)
    """

    def __init__(self, encode: Callable[[Frame], T] | None) -> None:
        self._encode = encode
        self._kept: WeakKeyDictionary[Frame, T] = WeakKeyDictionary()

    def __len__(self) -> int:
        """Frames whose features are kept."""
        return len(self._kept)

    def __getitem__(self, frame: Frame) -> T:
        """Return the features of a frame that is encoded."""
        return self._kept[frame]

    def see(self, frame: Frame) -> float:
        """Encode a frame, unless that is done already; returns the milliseconds it took."""
        if self._encode is None or frame in self._kept:
            return 0.0
        begin = time.perf_counter()
        self._kept[frame] = self._encode(frame)
        return (time.perf_counter() - begin) * 1e3

    def late(self, request: PlanRequest) -> int:
        """Return how many frames before a request's newest one are not encoded yet."""
        older = set(request.frames[:-1]) - set(request.frames[-1:])
        return sum(frame not in self._kept for frame in older)
