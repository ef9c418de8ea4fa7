"""All formats: those of the modules in this folder, and what :func:`register` adds.

A module here that has a ``FORMAT`` is found by that. A format outside of this package registers
itself when its module is imported: ``pcm-data convert A B formats=[my_module]``.
"""

import importlib
import pkgutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pcm_policy.datasets import formats
from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.base import Format
from pcm_policy.datasets.unknown import what_it_is
from pcm_policy.errors import PcmError

_ADDED: list[Format] = []


def register(added: Format) -> None:
    """Add a format; it is asked before those that are known already, and replaces its namesake."""
    _ADDED[:] = [added, *(known for known in _ADDED if known.name != added.name)]


def load_formats(modules: Sequence[str]) -> None:
    """Import modules that register formats.

    Raises:
        PcmError: there is no such module.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            fix = "put its folder on PYTHONPATH"
            raise PcmError(f"formats=[{name}]: cannot be imported ({error}): {fix}") from error


def known_formats() -> list[Format]:
    """Return all formats, added ones first."""
    names = {added.name for added in _ADDED}
    return [*_ADDED, *(own for own in _own() if own.name not in names)]


@cache
def _own() -> tuple[Format, ...]:
    names = (found.name for found in pkgutil.iter_modules(formats.__path__))
    modules = (importlib.import_module(f"{formats.__name__}.{name}") for name in names)
    found = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    return tuple(sorted(found, key=lambda known: known.general))


def source_format(path: Path) -> Format:
    """Tell a source's format by what it is.

    Raises:
        ReplayError: it does not exist, or is of no format that is known; the message says of which
            it is, as far as that can be told.
    """
    for known in known_formats():
        if known.recognises(path):
            return known
    if not path.exists():
        raise ReplayError(path, "store", "does not exist", "check the path")
    found = "is no set of demonstrations that is known"
    fix = f"expected one of {', '.join(known.name for known in known_formats())}"
    named = what_it_is(path)
    raise ReplayError(path, "store", *(named or (found, fix)))


def target_format(path: Path) -> Format:
    """Tell a target's format by its name.

    ``.zarr`` and ``.zip`` are replay buffers, ``.hdf5`` and ``.h5`` robomimic's, ``minari:ID``
    Minari's, and a folder without suffix LeRobot's.

    Raises:
        PcmError: no format takes that name.
    """
    for known in known_formats():
        if known.accepts(path):
            return known
    raise PcmError(
        f"{path}: name the target *.zarr or *.zarr.zip (replay buffer), *.hdf5 (robomimic), "
        "minari:ID, or a folder without suffix (LeRobot)"
    )
