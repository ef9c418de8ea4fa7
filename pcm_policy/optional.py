"""Packages that not everybody installs: the module, or the line that installs it."""

import importlib
from typing import Any

from pcm_policy.errors import PcmError


def require(module: str, what: str, extra: str) -> Any:
    """Import an optional package.

    Args:
        module: the module, as ``pyarrow.parquet``.
        what: what needs it, as the subject of a sentence: ``a LeRobot dataset``.
        extra: the extra of this package that installs it.

    Returns:
        The module.

    Raises:
        PcmError: it is not installed; the message holds the line that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise PcmError(f"{what} needs {package}: pip install 'pcm_policy[{extra}]'") from error
