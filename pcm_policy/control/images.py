"""Images on the wire: bytes as they are, or JPEG where both sides were told so.

An image is ``{form: raw, shape: [H, W, 3], data: bytes}`` or ``{form: jpeg, data: bytes}``. JPEG
loses detail that a policy may have learnt from: nobody sends or takes it unless a setting says so.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from pcm_policy.checks import one_of, whole
from pcm_policy.control.plan import Frame, Image
from pcm_policy.control.settings import PolicySpec
from pcm_policy.control.wire import WireError, natural
from pcm_policy.optional import require

Form = Literal["raw", "jpeg"]
FORMS: tuple[str, ...] = get_args(Form)


@dataclass(frozen=True)
class ImageForm:
    """How a robot sends its images.

    Attributes:
        form: ``raw``, the bytes as they are, or ``jpeg``, which is smaller and not exact.
        quality: of JPEG, 1 to 100.

    Raises:
        PcmError: another form, a quality out of range, or JPEG and Pillow is not installed.

    Example:
        >>> ImageForm("jpeg", quality=95).form
        'jpeg'
    """

    form: Form = "raw"
    quality: int = 90

    def __post_init__(self) -> None:
        one_of("images.form", self.form, FORMS)
        whole("images.quality", self.quality, 1, 100)
        if self.form == "jpeg":
            require("PIL.Image", "images as JPEG", "serve")


def encode_images(images: Mapping[str, Image], form: ImageForm) -> dict[str, Any]:
    """Return a frame's images as maps, by camera."""
    if form.form == "raw":
        return {
            name: {"form": "raw", "shape": list(image.shape), "data": image.tobytes()}
            for name, image in images.items()
        }
    pillow = require("PIL.Image", "images as JPEG", "serve")
    found = {}
    for name, image in images.items():
        file = io.BytesIO()
        pillow.fromarray(image).save(file, "JPEG", quality=form.quality)
        found[name] = {"form": "jpeg", "data": file.getvalue()}
    return found


def read_images(value: Any, spec: PolicySpec, forms: tuple[str, ...] = FORMS) -> dict[str, Image]:
    """Return the images of a frame, as they came over the wire.

    Args:
        value: one map a camera.
        spec: the policy's cameras, all of which are wanted.
        forms: which are taken.

    Raises:
        WireError: a camera is missing or unknown, or an image is not what it should be.
    """
    if not isinstance(value, dict) or set(value) != set(spec.cameras):
        raise WireError("field", f"images is a map with the cameras {', '.join(spec.cameras)}")
    return {
        name: _image(f"images.{name}", value[name], size, forms)
        for name, size in spec.cameras.items()
    }


def frame_message(frame: Frame, form: ImageForm) -> dict[str, Any]:
    """Return a frame as a message; its state comes with the request that needs it."""
    images = encode_images(frame.images, form)
    return {"type": "frame", "number": frame.number, "images": images}


def read_frame(message: Any, spec: PolicySpec, forms: tuple[str, ...] = FORMS) -> Frame:
    """Return the frame in a message.

    Raises:
        WireError: the policy has no cameras, or the frame is not what it should be.
    """
    if not spec.cameras:
        raise WireError("type", "this policy has no cameras: it takes no frames")
    if not isinstance(message, dict):
        raise WireError("field", "a frame is a map of number and images")
    images = read_images(message.get("images"), spec, forms)
    return Frame(np.zeros(0, np.float32), images, natural(message, "number"))


def _image(name: str, value: Any, size: tuple[int, int], forms: tuple[str, ...]) -> Image:
    form = value.get("form") if isinstance(value, dict) else None
    if form not in FORMS:
        raise WireError("field", f"{name}.form is one of {', '.join(FORMS)}")
    if form not in forms:
        raise WireError(
            "field", f"{name} is JPEG, which is not exact: start the server with serve.jpeg=true"
        )
    data = value.get("data")
    if not isinstance(data, bytes):
        raise WireError("field", f"{name}.data is not bytes")
    if form == "jpeg":
        return read_picture(name, data, size, "JPEG")
    if value.get("shape") != [*size, 3]:
        raise WireError("shape", f"{name} has shape {_short(value.get('shape'))}, not {[*size, 3]}")
    if len(data) != 3 * size[0] * size[1]:
        raise WireError(
            "shape", f"{name}.data has {len(data)} bytes, not those of its shape: uint8"
        )
    return np.frombuffer(data, np.uint8).reshape(*size, 3).copy()  # one that can be written to


def read_picture(name: str, data: bytes, size: tuple[int, int], form: str) -> Image:
    """Decode an image file whose header says the right size and three channels.

    Args:
        name: for messages.
        data: the file.
        size: height and width that it must have; nothing else is decoded.
        form: ``JPEG`` or ``PNG``.

    Raises:
        WireError: it is something else, or damaged.
    """
    pillow = require("PIL.Image", f"images as {form}", "serve")
    try:
        with pillow.open(io.BytesIO(data), formats=(form,)) as image:
            seen, mode = (image.height, image.width), image.mode
            fits = seen == size and mode == "RGB"
            pixels: Image | None = np.array(image) if fits else None
    except Exception as error:  # Pillow raises half a dozen kinds
        raise WireError(
            "value", f"{name} is not a {form} image ({type(error).__name__})"
        ) from error
    if pixels is None:
        raise WireError("shape", f"{name} has size {seen}, mode {mode}, not {size}, mode RGB")
    return pixels


def _short(value: Any) -> str:
    return str(value)[:60]
