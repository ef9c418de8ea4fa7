"""Lets ``import torchvision`` succeed in LeRobot's environment where torch is a CPU build.

``benchmarks.lerobot.env`` copies this file there, where a ``.pth`` file imports it when Python
starts: it costs nothing until something asks for torchvision. LeRobot's commands then run as they
are.
"""

import importlib
import sys
from collections.abc import Sequence
from types import ModuleType


class BeforeTorchvision:
    """An import hook that finds nothing, and declares torchvision's operators when asked for it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> None:
        """Declare the operators once, before the first import of torchvision."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            importlib.import_module("lerobot_vision_common").stub_vision_operators()


sys.meta_path.insert(0, BeforeTorchvision())
