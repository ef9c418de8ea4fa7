"""robomimic and robosuite, imported when the first of their environments is made.

Neither declares all that it imports: robomimic 0.3 wants ``mujoco_py``, of which it uses the name
of one exception, and ``six``; and it imports torchvision, which does not load beside every torch.
"""

import contextlib
import ctypes.util
import importlib
import io
import logging
import os
import sys
import types
import warnings
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from pcm_policy.envs.robosuite_controllers import Series, series_of
from pcm_policy.envs.vision_operators import declare_vision_operators
from pcm_policy.errors import PcmError

INSTALL: Mapping[Series, str] = {
    "1.4": "pip install -c constraints.txt -e '.[robomimic14]' (or 'pcm_policy[robomimic14]')",
    "1.5": "pip install -c constraints.txt -e '.[robomimic]' (or 'pcm_policy[robomimic]')",
}
EGL = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri"


def import_robomimic(module: str = "robomimic") -> Any:
    """Import a module of robomimic, or of robosuite.

    Args:
        module: such as ``robomimic.utils.file_utils``.

    Raises:
        PcmError: something is not installed; the message holds the line that installs it.
    """
    if "mujoco_py" not in sys.modules:
        stub: Any = types.ModuleType("mujoco_py")
        stub.builder = types.SimpleNamespace(MujocoException=RuntimeError)
        sys.modules["mujoco_py"] = stub
    if not (os.environ.get("MUJOCO_GL") or ctypes.util.find_library("EGL")):
        os.environ["MUJOCO_GL"] = "glx"  # robosuite imports EGL even where nothing is drawn
    declare_vision_operators()
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # robosuite sets the level of its own logger as it is imported
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of missing private macros, and of old annotations
            importlib.import_module("six")  # robomimic.config imports it and does not say so
            return importlib.import_module(module)
    except ImportError as error:
        line = INSTALL[installed_series()]
        raise PcmError(f"robosuite's tasks need {error.name or error}: {line}") from error
    finally:
        logging.disable(disabled)
        logging.getLogger("robosuite_logs").setLevel(logging.ERROR)


def installed_robosuite() -> str | None:
    """Return the version of robosuite that is installed, None where it is not."""
    try:
        return metadata.version("robosuite")
    except metadata.PackageNotFoundError:
        return None


def installed_series() -> Series:
    """Return the series of robosuite that is installed, where it is not the newest one."""
    return series_of(installed_robosuite()) or "1.5"


def check_robosuite(wanted: Series, where: str) -> None:
    """Refuse a description that is for another robosuite than the one that is installed.

    Raises:
        PcmError: the message begins with ``where`` and holds the line that installs the right one.
    """
    found = installed_robosuite()
    if found is not None and series_of(found) != wanted:
        raise PcmError(
            f"{where}: this environment is of robosuite {wanted}, and {found} is installed, whose "
            f"controllers and models are others. In another Python environment: {INSTALL[wanted]}"
        )
