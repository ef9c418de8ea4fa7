"""From an environment's observation to the frame that a controller keeps."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pcm_policy.checks import numbers
from pcm_policy.control.plan import Frame, Image
from pcm_policy.control.safety import frame_fault
from pcm_policy.control.settings import PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.fields import STATE, join_fields, parse_field


class BadFrame(PcmError):
    """An observation that no plan is made from.

    Attributes:
        kind: ``missing_frame`` if a camera gave no image, else ``bad_observation``.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def read_frame(observation: Any, spec: PolicySpec) -> Frame:
    """Take what the policy sees out of an observation, and check it; arrays are copied.

    Args:
        observation: ``(Do,)``; or a dictionary with the entries ``spec.obs_fields``, or ``state``
            in place of them, and ``(H, W, 3)`` uint8 of every camera. Other entries are ignored.
        spec: what the policy sees.

    Raises:
        BadFrame: an entry is missing, of another shape or type, not finite, or far outside
            training.
    """
    if spec.cameras and not isinstance(observation, Mapping):
        raise BadFrame(
            "bad_observation",
            f"observation is {type(observation).__name__}: this policy has cameras, give a "
            f"dictionary with {', '.join(spec.cameras)}",
        )
    images = {
        name: _image(name, observation.get(name), size) for name, size in spec.cameras.items()
    }
    state = observation
    if isinstance(observation, Mapping):
        try:
            state = state_of(observation, spec.obs_fields, spec.obs_dim)
        except (PcmError, TypeError, ValueError) as error:
            raise BadFrame("bad_observation", str(error)) from error
    fault = frame_fault(state, spec)
    if fault is not None:
        raise BadFrame("bad_observation", fault)
    return Frame(np.array(state, np.float32), images)


def state_of(observation: Mapping[str, Any], fields: tuple[str, ...], width: int) -> Any:
    """Return the numbers of an observation that is a dictionary, ``(Do,)``.

    Args:
        observation: its entries; the entry ``state`` stands for the fields where it has none of
            them.
        fields: what is put side by side, in order.
        width: ``Do``; nothing is looked for where it is 0.

    Raises:
        PcmError: an entry is missing, or not an array of numbers.
    """
    if width == 0:
        return np.zeros(0, np.float32)
    named = {parse_field(text).key for text in fields}
    if STATE in observation and not named & set(observation):
        return numbers(f"observation {STATE}", observation[STATE])
    if not fields and STATE not in observation:
        raise PcmError(f"the observation lacks {STATE}: it has {', '.join(observation)}")
    return join_fields(observation, fields)


def _image(name: str, image: Any, size: tuple[int, int]) -> Image:
    fault = image_fault(name, image, size)
    if fault is not None:
        raise BadFrame("missing_frame" if image is None else "bad_observation", fault)
    return np.array(image, order="C")


def image_fault(name: str, image: Any, size: tuple[int, int]) -> str | None:
    """Say what is wrong with a camera's image, or nothing.

    Args:
        name: of the camera.
        image: what came from it; None where nothing came.
        size: height and width that it must have.
    """
    if image is None:
        return f"the observation lacks the camera {name}"
    want = (*size, 3)
    array = isinstance(image, np.ndarray)
    if array and image.shape != want:
        return f"observation {name} has shape {image.shape}: this policy takes {want}"
    if not array or image.dtype != np.uint8:
        kind = image.dtype if array else type(image).__name__
        return (
            f"observation {name} is {kind}: give images as arrays of uint8, 0 to 255, height, "
            "width and channels last"
        )
    return None
