"""What a LeRobot policy sees and does, as its config lists it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pcm_policy.adopt.lerobot_files import ACTION, STATE
from pcm_policy.errors import PcmError

_WIDEST = 100_000  # numbers in one feature: a config could name any


@dataclass(frozen=True)
class Features:
    """What a policy sees and does.

    Attributes:
        shapes: of every feature that it uses; of a camera channels, height and width.
        modes: how LeRobot normalises each.
        notes: what was recorded and is not used.
    """

    shapes: Mapping[str, list[int]]
    modes: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def cameras(self) -> dict[str, tuple[int, int]]:
        """Height and width of every camera's images, in the order of the config."""
        return {k: (v[1], v[2]) for k, v in self.shapes.items() if len(v) == 3}

    @property
    def widths(self) -> dict[str, int]:
        """Numbers of every feature; of a camera its channels."""
        return {k: v[0] for k, v in self.shapes.items()}


def features(where: str, config: Mapping[str, Any], used: tuple[str, ...], policy: str) -> Features:
    """Read the features of a config.

    LeRobot lists whatever was recorded; its policies use few of them by name, and all images. The
    rest is left out, and noted.

    Args:
        where: the config's file, for messages.
        config: LeRobot's.
        used: what the policy uses beside images, if it is there; state and action must be.
        policy: its type.

    Raises:
        PcmError: no features, or of shapes that no policy takes.
    """
    try:
        if "input_shapes" in config:
            both = config["input_shapes"] | config["output_shapes"]
            shapes = {k: list(v) for k, v in both.items()}
            images = {k for k in shapes if k.startswith("observation.image")}
            modes = config["input_normalization_modes"] | config["output_normalization_modes"]
        else:
            listed = config["input_features"] | config["output_features"]
            shapes = {k: list(v["shape"]) for k, v in listed.items()}
            mapping = config["normalization_mapping"]
            # as in LeRobot: a type that the mapping leaves out is not normalised
            modes = {k: mapping.get(v["type"], "IDENTITY") for k, v in listed.items()}
            images = {k for k, v in listed.items() if v["type"] == "VISUAL"}
    except (KeyError, TypeError, AttributeError) as error:
        raise PcmError(f"{where}: no features with shapes and normalisation ({error!r})") from error
    for name in (STATE, ACTION):
        if name not in shapes:
            raise PcmError(f"{where}: the policy has no {name}")
    unused = [name for name in shapes if name not in (*used, *images)]
    shapes = {name: shape for name, shape in shapes.items() if name not in unused}
    for name, shape in shapes.items():
        camera = name not in used
        whole = all(type(n) is int and 0 < n <= _WIDEST for n in shape)
        if not whole or len(shape) != (3 if camera else 1) or (camera and shape[0] != 3):
            kind = "an image (3, H, W)" if camera else "one axis"
            raise PcmError(f"{where}: {name} has shape {shape}, expected {kind}")
    notes = [f"{name} is not used, as by LeRobot's {policy} policy" for name in unused]
    return Features(shapes, {k: str(v).upper() for k, v in modes.items()}, tuple(notes))
