"""Minari data sets, by path or as ``minari:ID`` under Minari's own root. Needs minari or h5py.

An episode of Minari has one observation more than actions, and one info more: that of the reset.
Here every array has a row a step, so the observation after the last action is left out (and named)
unless it was written from here and only repeats the one before, and so is the reset's info: the
info that a step returned stands in its row, as its reward does. Spaces must be stored with the
data: Minari would import the environment that a data set names to find them out, and nothing that
a file names is run here.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.minari_storage import Leaf, Storage, open_storage
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, section
from pcm_policy.datasets.trust import refuse_links_outside
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

SCHEME = "minari:"
SPACES = ("observation_space", "action_space")
PLACES = {"actions": "action", "rewards": "reward"}
PLACES |= {"terminations": "terminated", "truncations": "truncated"}
REPEATED = "last_observation_repeated"
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
_COUNTS = "rewards"
_COUNTED = ("total_episodes", "total_steps", "dataset_size", "data_format", "jpeg_encoding")
_FIXED = ("dataset_id", "minari_version", META, *SPACES, *_COUNTED)


def is_minari(path: Path) -> bool:
    """Tell whether a path is ``minari:ID`` or the folder of a Minari data set."""
    return str(path).startswith(SCHEME) or (path / "data/metadata.json").is_file()


def minari_id(path: Path) -> str:
    """Return the ID in ``minari:ID``; PcmError when it is none."""
    name = str(path).removeprefix(SCHEME)
    if _ID.fullmatch(name) is None:
        raise PcmError(f"{path}: name it minari:NAME-v0, with NAMESPACE/ before it if wanted")
    return name


def minari_folder(path: Path) -> Path:
    """Return the folder of ``minari:ID`` (``MINARI_DATASETS_PATH`` moves the root), or the path."""
    if not str(path).startswith(SCHEME):
        return path
    root = require("minari.storage.datasets_root_dir", "a Minari data set", "minari")
    return Path(root.get_dataset_path(minari_id(path)))


def read_minari(path: Path) -> Recording:
    """Describe a data set.

    Raises:
        PcmError: a package is not installed; or a ReplayError: there is none, it stores no spaces
            or it is damaged.
    """
    folder = minari_folder(path)
    if folder != path and not folder.exists():
        found, fix = f"is not at {folder}", f"minari download {minari_id(path)}"
        raise ReplayError(path, "store", found, f"check the ID, or get it first: {fix}")
    refuse_links_outside(folder)
    metadata = _metadata(folder)
    storage = open_storage(folder, metadata)
    if not storage.count:
        raise ReplayError(folder, "data", "holds no episodes", "collect some")
    meta = parse_meta(folder, metadata.get(META))
    own = section(meta, "minari")
    meta.pop("minari", None)
    leaves = storage.leaves(0)
    names, dtypes = _known_names(own, leaves)
    steps = _steps(folder, leaves)
    fields: dict[str, np.dtype[Any]] = {}
    lost: dict[str, str] = {}
    for name, place in names.items():
        leaf = leaves[place]
        if leaf.why is not None or leaf.shape[:1] not in ((steps,), (steps + 1,)):
            lost[place] = "(no array of numbers with a row a step)"
        else:
            fields[name] = np.dtype((dtypes.get(name, leaf.dtype), leaf.shape[1:]))
    lost |= _left_over(names, leaves, steps, bool(own.get(REPEATED)))
    kept = _kept(metadata, storage, {name: names[name] for name in fields}, lost)

    def episodes(wanted: Collection[str]) -> Iterator[Episode]:
        places = {name: names[name] for name in wanted}
        taken = list(dict.fromkeys([*places.values(), _COUNTS]))
        back = {place: name for name, place in places.items()}
        try:
            for number, arrays in enumerate(storage.episodes(taken)):
                count = len(arrays[_COUNTS])
                yield {
                    name: _rows(folder, number, name, place, arrays[place], count).astype(
                        fields[name].base if name in dtypes else arrays[place].dtype, copy=False
                    )
                    for name, place in places.items()
                }
        except ReplayError as fault:
            name = back.get(str(fault.array))
            found = fault.path, fault.where, fault.found, fault.fix
            raise ReplayError(*found, name if name else fault.array) from fault

    return Recording(folder, fields, storage.count, episodes, meta | {"minari": kept}, lost)


def _known_names(
    own: Mapping[str, Any], leaves: Mapping[str, Leaf]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return places by name, and the types of those that Minari does not store."""
    names = own.get("names")
    if isinstance(names, dict) and {str(place) for place in names.values()} <= set(leaves):
        return names, section(own, "dtypes")
    return _names(leaves), {}


def _steps(folder: Path, leaves: Mapping[str, Leaf]) -> int:
    """Return the number of steps of an episode: of its rewards, of which each step has one."""
    if _COUNTS not in leaves or not leaves[_COUNTS].shape:
        found = "cannot be read (the first episode has no rewards)"
        raise ReplayError(folder, "data", found, "download it again")
    return leaves[_COUNTS].shape[0]


def _left_over(
    names: Mapping[str, str], leaves: Mapping[str, Leaf], steps: int, repeated: bool
) -> dict[str, str]:
    """Name the rows that belong to no step."""
    longer = {p.partition("/")[0] for p in names.values() if leaves[p].shape[:1] == (steps + 1,)}
    lost = {}
    if "observations" in longer and not repeated:
        lost["the observation after the last action of every episode"] = ""
    if "infos" in longer:
        lost["the info of the reset before every episode"] = ""
    return lost


def _kept(
    metadata: Mapping[str, Any], storage: Storage, names: Mapping[str, str], lost: dict[str, str]
) -> dict[str, Any]:
    """Return what only Minari has a place for; name the rest."""
    kept: dict[str, Any] = {k: metadata[k] for k in SPACES}
    kept |= {"metadata": {k: v for k, v in metadata.items() if k not in _FIXED}}
    about = storage.about()
    seeds = [known.get("seed") for known in about]
    if any(seed is not None for seed in seeds):
        kept["seeds"] = seeds
    if any("options" in known for known in about):
        lost["the reset options of the episodes"] = ""
    kept["names"] = dict(names)
    return kept


def _metadata(folder: Path) -> dict[str, Any]:
    file = folder / "data/metadata.json"
    try:
        found = json.loads(file.read_text())
        missing = [key for key in SPACES if not isinstance(found.get(key), str)]
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        reason = f"cannot be read ({error})"
        raise ReplayError(folder, "data/metadata.json", reason, "download it again") from error
    if missing:
        reason = f"stores no {missing[0]}"
        fix = "write it again with a newer Minari: the environment it names is not imported here"
        raise ReplayError(folder, "data/metadata.json", reason, fix)
    return dict(found)


def _names(places: Iterable[str]) -> dict[str, str]:
    """Name the arrays of a data set that was not written from here."""
    names: dict[str, str] = {}
    for place in places:
        head, _, rest = place.partition("/")
        rest = rest.replace("/", ".")
        if head == "observations":
            name = rest or "observation"
        elif head in PLACES:
            name = ".".join([PLACES[head], *([rest] if rest else [])])
        else:
            name = f"info.{rest}" if head == "infos" else place.replace("/", ".")
        while name in names:
            name = f"observation.{name}" if head == "observations" else f"{name}.{head}"
        names[name] = place
    return names


def _rows(
    folder: Path, number: int, name: str, place: str, values: NDArray[Any], steps: int
) -> NDArray[Any]:
    """Return the rows that belong to the steps of an episode."""
    if values.shape[:1] not in ((steps,), (steps + 1,)):
        found = f"has {len(values) if values.ndim else 'no'} rows where there are {steps} steps"
        where, fix = f"episode {number}: {place}", "download it again"
        raise ReplayError(folder, where, found, fix, place)
    return values[-steps:] if place.startswith("infos/") else values[:steps]
