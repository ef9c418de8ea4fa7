"""torchvision beside a CPU build of torch, whose published library cannot be loaded there."""

import importlib.util
from pathlib import Path
from typing import Any

from pcm_policy.optional import require

_declared: list[Any] = []  # declarations live as long as the object that made them


def declare_vision_operators() -> None:
    """Let ``import torchvision`` work where its compiled operators cannot be loaded.

    At its import torchvision registers shapes for two operators, which fails where nothing has
    declared them; a declaration is enough for networks and transforms. Where the library loads, or
    torchvision is not installed, nothing happens. Must come before the first import of torchvision.
    """
    found = importlib.util.find_spec("torchvision")
    torch = require("torch", "robomimic", "robomimic")
    operators: Any = torch.ops
    if found is None or found.origin is None or hasattr(operators.torchvision, "nms"):
        return
    try:
        for file in Path(found.origin).parent.glob("_C*.so"):
            operators.load_library(str(file))
        operators.torchvision.nms  # noqa: B018  a missing operator raises here
    except (OSError, AttributeError, RuntimeError):
        make: Any = torch.library.Library
        library = make("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _declared.append(library)
