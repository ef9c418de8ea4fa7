"""From the entries of a client's observation to what a policy sees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.control.frames import image_fault, state_of
from pcm_policy.control.plan import Image
from pcm_policy.control.safety import frame_fault
from pcm_policy.control.settings import PolicySpec
from pcm_policy.control.wire import WireError
from pcm_policy.errors import PcmError
from pcm_policy.fields import STATE, parse_field
from pcm_policy.serving.options import ObserveOptions

ReadArray = Callable[[Any, str], NDArray[Any]]
ReadImage = Callable[[Any, str, tuple[int, int]], NDArray[Any]]


@dataclass(frozen=True)
class Seen:
    """What a message shows: one observation, or all ``To``, oldest first.

    Attributes:
        states: ``(n, Do)`` numbers.
        images: of every observation, by camera.
    """

    states: NDArray[np.float32]
    images: tuple[Mapping[str, Image], ...]


class Reader:
    """Finds what the policy sees among the entries of a message, and checks it.

    Args:
        spec: what the policy sees.
        options: what its clients call that.
        read_array: from an entry as it came, and its name, to an array.
        read_image: the same for images, with the height and width that are wanted.
        where: entry of a camera that the options do not name; ``{}`` stands for its name.

    Attributes:
        keys: the entry of every camera.
        fields: the entries, or columns of them, with the numbers; empty for none.
    """

    def __init__(
        self,
        spec: PolicySpec,
        options: ObserveOptions,
        read_array: ReadArray,
        read_image: ReadImage,
        where: str = "{}",
    ) -> None:
        self._spec, self._array, self._image = spec, read_array, read_image
        self.keys = {name: options.images.get(name, where.format(name)) for name in spec.cameras}
        self.fields = tuple(options.state or spec.obs_fields or (STATE,)) if spec.obs_dim else ()

    def __call__(self, entries: Mapping[str, Any]) -> Seen:
        """Return what the policy sees.

        Args:
            entries: of the message; each ``(To, ...)``, or each without this axis.

        Raises:
            WireError: an entry is missing, of another shape or type, not finite, or far outside
                training.
        """
        spec = self._spec
        found: dict[str, NDArray[Any]] = {n: self._images(entries, n) for n in self.keys}
        whole = {self.keys[name]: images.ndim == 4 for name, images in found.items()}
        states = self._numbers(entries)
        if spec.obs_dim:
            whole[", ".join(self.fields)] = states.ndim == 2
        if len(set(whole.values())) > 1:
            raise WireError("shape", f"{_names(whole, True)} have a history, {_names(whole)} not")
        steps = spec.obs_steps if any(whole.values()) else 1
        states = states.reshape(steps, -1)
        for row in states:
            fault = frame_fault(row, spec)
            if fault is not None:
                raise WireError("value", fault)
        rows = {name: images.reshape(steps, *images.shape[-3:]) for name, images in found.items()}
        images = tuple({name: part[i].copy() for name, part in rows.items()} for i in range(steps))
        return Seen(states.astype(np.float32), images)

    def _numbers(self, entries: Mapping[str, Any]) -> NDArray[Any]:
        """Return the numbers, ``(Do,)`` or ``(To, Do)``."""
        spec = self._spec
        if not spec.obs_dim:
            return np.zeros(0, np.float32)
        wanted = dict.fromkeys((*(parse_field(text).key for text in self.fields), STATE))
        given = {key: self._array(entries[key], key) for key in wanted if key in entries}
        if not given:
            raise _missing(next(iter(wanted)), entries, "serve.observe.state")
        try:
            states: NDArray[Any] = np.atleast_1d(state_of(given, self.fields, spec.obs_dim))
        except (PcmError, TypeError, ValueError) as error:
            raise WireError("field", str(error)) from error
        if states.ndim > 1 and states.shape != (spec.obs_steps, spec.obs_dim):
            raise WireError(
                "shape",
                f"{', '.join(given)} have shape {states.shape}: this policy takes "
                f"({spec.obs_dim},), or with the history ({spec.obs_steps}, {spec.obs_dim})",
            )
        return states

    def _images(self, entries: Mapping[str, Any], name: str) -> NDArray[np.uint8]:
        """Return the images of a camera, channels last: one, or ``To`` of them."""
        key, size, steps = self.keys[name], self._spec.cameras[name], self._spec.obs_steps
        if key not in entries:
            raise _missing(key, entries, f"serve.observe.images.{name}")
        image = self._image(entries[key], key, size)
        if image.shape[-3:] == (3, *size) != (*size, 3):
            image = np.moveaxis(image, -3, -1)
        one = image[0] if image.ndim == 4 and len(image) == steps else image
        fault = image_fault(key, one, size)
        if fault is not None:
            more = "" if one.shape == (*size, 3) else "; resize it as the training images were"
            raise WireError("shape", fault + more)
        return image


def _names(whole: Mapping[str, bool], which: bool = False) -> str:
    return ", ".join(key for key, has in whole.items() if has is which)


def _missing(key: str, entries: Mapping[str, Any], setting: str) -> WireError:
    there = ", ".join(entries)[:200] or "nothing"
    return WireError("field", f"the observation lacks {key}: it has {there}; see {setting}")
