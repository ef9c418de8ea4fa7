"""Minari data sets, by path or as ``minari:ID`` under Minari's own root. Needs minari.

An episode of Minari has one observation more than actions; here every array has a row a step, so
the observation after the last action is left out (and named), unless it was written from here and
only repeats the one before. Spaces must be stored with the data: Minari would import the
environment that a data set names to find them out, and nothing that a file names is run here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, require, step_type
from pcm_policy.errors import PcmError

SCHEME = "minari:"
SPACES = ("observation_space", "action_space")
PLACES = {"actions": "action", "rewards": "reward"}
PLACES |= {"terminations": "terminated", "truncations": "truncated"}
REPEATED = "last_observation_repeated"
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v\d+")
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
        PcmError: minari is not installed; or a ReplayError: there is none, it stores no spaces or
            it is damaged.
    """
    folder = minari_folder(path)
    metadata = _metadata(folder)
    storage = _storage(folder)
    meta = parse_meta(folder, metadata.get(META))
    section = meta.pop("minari", {})
    first = next(iter(_raw(folder, storage)), None)
    if first is None:
        raise ReplayError(folder, "data", "holds no episodes", "collect some")
    found = dict(_leaves(first))
    names, dtypes = section.get("names"), section.get("dtypes", {})
    if not isinstance(names, dict) or not set(names.values()) <= set(found):
        names, dtypes = _names(found), {}
    steps = len(found["rewards"])
    usable = {k: v for k, v in names.items() if _is_numbers(found[v], steps)}
    lost = [f"{v} (no array of numbers with a row a step)" for v in names.values()]
    lost = [line for line in lost if line.partition(" ")[0] not in usable.values()]
    if not section.get(REPEATED):
        lost.append("the observation after the last action of every episode")
    fields = {k: _typed(found[v][:steps], dtypes.get(k)) for k, v in usable.items()}
    kept = {k: metadata[k] for k in SPACES}
    kept |= {"metadata": {k: v for k, v in metadata.items() if k not in _FIXED}}
    episodes_meta = list(storage.get_episode_metadata(range(storage.total_episodes)))
    seeds = [known.get("seed") for known in episodes_meta]
    if any(seed is not None for seed in seeds):
        kept["seeds"] = seeds
    if any("options" in known for known in episodes_meta):
        lost.append("the reset options of the episodes")
    kept["names"] = usable

    def episodes() -> Iterator[Episode]:
        for number, raw in enumerate(_raw(folder, storage)):
            yield _episode(folder, number, dict(_leaves(raw)), usable, fields)

    known = meta | {"minari": kept}
    return Recording(folder, fields, storage.total_episodes, episodes, known, tuple(lost))


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


def _storage(folder: Path) -> Any:
    module = require("minari.dataset.minari_storage", "a Minari data set", "minari")
    try:
        return module.MinariStorage.read(folder / "data")
    except (OSError, ValueError, KeyError, TypeError, AssertionError, NotImplementedError) as error:
        reason = f"cannot be opened ({' '.join(str(error).split())})"
        raise ReplayError(folder, "data", reason, "download it again") from error


def _raw(folder: Path, storage: Any) -> Iterator[Mapping[str, Any]]:
    """Yield Minari's episodes, one in memory at a time."""
    try:
        yield from storage.get_episodes(range(storage.total_episodes))
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        reason = f"cannot be read ({' '.join(str(error).split())})"
        raise ReplayError(folder, "data", reason, "download it again") from error


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the arrays of an episode by their place, as ``observations/state``."""
    if isinstance(node, tuple):
        node = dict(enumerate(node))
    if isinstance(node, Mapping):
        for key, value in node.items():
            if path or key not in ("id", "seed", "options"):
                yield from _leaves(value, f"{path}/{key}" if path else str(key))
    elif node is not None:
        yield path, np.asarray(node)


def _names(places: Mapping[str, Any]) -> dict[str, str]:
    """Name the arrays of a data set that was not written from here."""
    names: dict[str, str] = {}
    for place in places:
        head, _, rest = place.partition("/")
        rest = rest.replace("/", ".")
        if head == "observations":
            name = rest or "observation"
        elif head == "infos":
            name = f"info.{rest}"
        else:
            name = ".".join([PLACES[head], *([rest] if rest else [])])
        names[f"observation.{name}" if name in names else name] = place
    return names


def _is_numbers(values: Any, steps: int) -> bool:
    return values.dtype.kind in "biuf" and values.ndim > 0 and len(values) in (steps, steps + 1)


def _typed(values: Any, dtype: str | None) -> np.dtype[Any]:
    return step_type(values if dtype is None else values.astype(dtype))


def _episode(
    folder: Path,
    number: int,
    found: Mapping[str, Any],
    names: Mapping[str, str],
    fields: Mapping[str, np.dtype[Any]],
) -> Episode:
    steps = len(found["rewards"])
    episode: Episode = {}
    for name, place in names.items():
        values = found.get(place)
        if values is None or not _is_numbers(values, steps):
            raise ReplayError(
                folder, f"episode {number}", f"has no {place}", "the first episode has one"
            )
        episode[name] = values[:steps].astype(fields[name].base, copy=False)
        if step_type(episode[name]) != fields[name]:
            fault = f"{place} has steps of {step_type(values)}"
            raise ReplayError(folder, f"episode {number}", fault, f"the first has {fields[name]}")
    return episode
