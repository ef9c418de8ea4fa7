"""Write Minari data sets. Needs minari; images are stored as they are, without JPEG.

Every episode's last observation is repeated, because Minari wants the one after the last action.
Rewards that nobody recorded are zeros; an episode ends truncated where nothing says it was done.
"""

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.minari import REPEATED, SPACES, minari_folder, minari_id
from pcm_policy.datasets.recording import META, Episode, Recording, section
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

_ACTIONS = ("action", "actions")
_REWARDS = ("reward", "rewards")
_DONES = ("done", "dones")
_INFOS = ("timestamp", "task_index", "states", "action_dict", "next_obs", "next", "info")


def write_minari(path: Path, recording: Recording) -> list[str]:
    """Write ``minari:ID``; the data set appears whole or not at all. Returns notes.

    Raises:
        PcmError: minari is not installed, or there is no action.
    """
    minari = require("minari", "a Minari data set", "minari")
    storage = require("minari.dataset.minari_storage", "a Minari data set", "minari")
    folder, name = minari_folder(path), minari_id(path)
    own = section(recording.meta, "minari")
    known = section(own, "names")
    same = set(known) == set(recording.fields)
    names = _places(recording, known)
    if not any(place.partition("/")[0] == "actions" for place in names.values()):
        has = ", ".join(recording.fields)
        raise PcmError(f"{recording.path} has no action, which Minari needs: rename one of {has}")
    spaces = _spaces(recording, names)
    if same and all(key in own for key in SPACES):
        spaces = _stored(own)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = storage.MinariStorage.new(scratch / "data", **spaces, jpeg_encoding=False)
        made.update_metadata(_metadata(recording, names, own, name, minari.__version__))
        made.update_episodes(_buffers(recording, names, own.get("seeds")))
        _namespace(name)
        scratch.chmod(0o755)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    notes = ["the last observation of every episode is repeated: Minari wants one more"]
    if "rewards" not in names.values():
        notes.append("no rewards: they are zeros")
    return notes


def _places(recording: Recording, known: Mapping[str, str]) -> dict[str, str]:
    """Return where every array goes.

    Raises:
        ReplayError: two go to one place, or one into another.
    """
    names: dict[str, str] = {}
    for field, kind in recording.fields.items():
        place = known.get(field) or _place(field, kind)
        for other, taken in names.items():
            if place == taken or place.startswith(f"{taken}/") or taken.startswith(f"{place}/"):
                found, fix = f"goes to {place}, where {other} goes", "gives it another name"
                fix = f"rename=[{field}:OTHER] {fix}"
                raise ReplayError(recording.path, field, found, fix, field)
        names[field] = place
    return names


def _place(field: str, kind: np.dtype[Any]) -> str:
    """Return where an array goes that Minari never had."""
    if field in _ACTIONS:
        return "actions"
    if field in _REWARDS and kind.shape == ():
        return "rewards"
    if field in (*_REWARDS, *_DONES) or field.partition(".")[0] in _INFOS:
        return f"infos/{field}"
    return f"observations/{field}"


def _metadata(
    recording: Recording,
    names: Mapping[str, str],
    known: Mapping[str, Any],
    name: str,
    version: str,
) -> dict[str, Any]:
    own = section(known, "metadata")
    for key in ("author", "author_email"):  # Minari keeps sets
        if key in own:
            own[key] = set(own[key])
    dtypes = {field: "bool" for field, kind in recording.fields.items() if kind.base == np.bool_}
    meta = {k: v for k, v in recording.meta.items() if k != "minari"}
    meta["minari"] = {"names": dict(names), "dtypes": dtypes, REPEATED: True}
    return own | {"dataset_id": name, "minari_version": version, META: meta}


def _spaces(recording: Recording, names: Mapping[str, str]) -> dict[str, Any]:
    """Return boxes as wide as the types: what was seen is no bound of what may come."""
    spaces = require("gymnasium.spaces", "a Minari data set", "minari")
    found: dict[str, dict[str, Any]] = {"observations": {}, "actions": {}}
    for field, kind in recording.fields.items():
        head, _, rest = names[field].partition("/")
        if head in found:
            found[head][rest] = _box(spaces, kind)
    result = {}
    for key, head in zip(SPACES, found, strict=True):
        boxes = found[head]
        result[key] = boxes[""] if set(boxes) == {""} else spaces.Dict(_nested(spaces, boxes))
    return result


def _nested(spaces: Any, boxes: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``a/b`` into a space within a space."""
    result: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, box in boxes.items():
        head, _, rest = name.partition("/")
        if rest:
            groups.setdefault(head, {})[rest] = box
        else:
            result[head] = box
    return result | {k: spaces.Dict(_nested(spaces, v)) for k, v in groups.items()}


def _box(spaces: Any, kind: np.dtype[Any]) -> Any:
    base = np.dtype(np.uint8) if kind.base == np.bool_ else kind.base
    if base.kind == "f":
        return spaces.Box(-np.inf, np.inf, kind.shape, base.type)
    limits = np.iinfo(base)
    high = 1 if kind.base == np.bool_ else limits.max
    return spaces.Box(limits.min, high, kind.shape, base.type)


def _stored(own: Mapping[str, Any]) -> dict[str, Any]:
    module = require("minari.serialization", "a Minari data set", "minari")
    return {key: module.deserialize_space(own[key]) for key in SPACES}


def _namespace(name: str) -> None:
    """Create the ID's namespace, as Minari's own writers do."""
    module = require("minari.namespace", "a Minari data set", "minari")
    space = name.rpartition("/")[0]
    if space and space not in module.list_local_namespaces():
        module.create_namespace(space)


def _buffers(recording: Recording, names: Mapping[str, str], seeds: Any) -> Iterator[Any]:
    """Yield episodes as Minari takes them, one in memory at a time."""
    buffer = require("minari.data_collector", "a Minari data set", "minari").EpisodeBuffer
    for number, episode in enumerate(recording.read()):
        steps = len(next(iter(episode.values())))
        tree: dict[str, Any] = {}
        for field, place in names.items():
            values = episode[field]
            values = values.astype(np.uint8) if values.dtype == np.bool_ else values
            if place.startswith("observations"):
                values = np.concatenate([values, values[-1:]])
            _put(tree, place.split("/"), values)
        done = _done(episode, steps)
        tree.setdefault("observations", {})
        tree.setdefault("rewards", np.zeros(steps))
        tree.setdefault("terminations", done)
        tree.setdefault("truncations", (np.arange(steps) == steps - 1) & ~done)
        for key in ("terminations", "truncations"):
            tree[key] = np.asarray(tree[key], bool)
        yield buffer(id=number, seed=None if seeds is None else seeds[number], **tree)


def _put(tree: dict[str, Any], place: list[str], values: NDArray[Any]) -> None:
    for key in place[:-1]:
        tree = tree.setdefault(key, {})
    tree[place[-1]] = values


def _done(episode: Episode, steps: int) -> NDArray[np.bool_]:
    found = next((episode[name] for name in _DONES if name in episode), np.zeros(steps))
    return found.reshape(steps, -1)[:, 0].astype(bool)
