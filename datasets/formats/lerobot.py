"""LeRobot dataset folders, v3.0 and v2.x: columns of their parquet files, frames of their videos.

Cameras are decoded only when asked for; the report names those that were not. Needs pyarrow, and
PyAV for videos.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.lerobot_images import KINDS, Camera, chosen, pictures, step_kind
from pcm_policy.datasets.formats.store import ReplayError
from pcm_policy.datasets.recording import META, Episode, Recording, parse_meta, require

INDEX = ("frame_index", "episode_index", "index")
_BATCH_ROWS = 10_000
_BATCH_PICTURES = 64  # rows, where they hold pictures


def read_lerobot(path: Path, images: Sequence[str] | str = ()) -> Recording:
    """Describe a folder.

    Args:
        path: the folder.
        images: camera entries to decode, or ``all``.

    Raises:
        PcmError: an optional package is not installed, or there is no such camera; or a
            ReplayError: a file is missing or damaged.
    """
    info = _info(path)
    files = sorted((path / "data").glob("*/*.parquet"))
    if not files:
        raise ReplayError(path, "data", "holds no parquet files", "download them as well")
    lengths, own_times, tasks_used = _index(path, files, float(info["fps"]))
    meta = parse_meta(path, info.get(META))
    shapes, image_types = meta.pop("shapes", {}), meta.pop("image_types", {})
    skipped = {*INDEX, *(() if own_times else ("timestamp",))}
    skipped |= set() if tasks_used else {"task_index"}
    decoded = chosen(path, info, images)
    fields: dict[str, np.dtype[Any]] = {}
    lost: list[str] = []
    for name, feature in info["features"].items():
        if name in decoded:
            kind = step_kind(feature)
            fields[name] = np.dtype((image_types.get(name, kind.base), kind.shape))
        elif feature["dtype"] in KINDS:
            lost.append(f"{name} ({feature['dtype']}): images=[{name}] decodes it")
        elif feature["dtype"] == "string":
            lost.append(f"{name} (string)")
        elif name in skipped:
            continue
        else:
            shape = tuple(shapes.get(name, feature["shape"]))
            whole = name in ("timestamp", "task_index")
            fields[name] = np.dtype((feature["dtype"], () if whole else shape))
    names = {k: v.get("names") for k, v in info["features"].items() if k in fields}
    section = {
        "tasks": _tasks(path),
        "features": {k: v for k, v in names.items() if v is not None and k not in decoded},
        "robot_type": info.get("robot_type"),
    }
    known = {"fps": info["fps"], "lerobot": {k: v for k, v in section.items() if v}}

    videos = [name for name in decoded if info["features"][name]["dtype"] == "video"]

    def episodes() -> Iterator[Episode]:
        columns = {name: kind for name, kind in fields.items() if name not in videos}
        cameras = {name: Camera(path, info, name, len(lengths)) for name in videos}
        try:
            for number, episode in enumerate(_episodes(path, files, columns, lengths)):
                frames = {k: c.read(number, lengths[number]) for k, c in cameras.items()}
                yield {name: (episode | frames)[name] for name in fields}
        finally:
            for camera in cameras.values():
                camera.close()

    return Recording(path, fields, len(lengths), episodes, meta | known, tuple(lost))


def _info(path: Path) -> dict[str, Any]:
    file = path / "meta/info.json"
    try:
        info = json.loads(file.read_text())
        version, features = str(info["codebase_version"]), info["features"]
        known = version.startswith(("v2.", "v3.")) and float(info["fps"]) > 0
        shaped = all({"dtype", "shape"} <= set(v) for v in features.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"cannot be read ({error!r})"
        raise ReplayError(path, "meta/info.json", found, "download it again") from error
    if not known or not shaped:
        found = f"has version {version}"
        raise ReplayError(path, "meta/info.json", found, "convert it with LeRobot to v3.0")
    return dict(info)


def _tasks(path: Path) -> list[str]:
    """Return the tasks in the order of their numbers."""
    pairs: list[Any] = []
    if (path / "meta/tasks.parquet").is_file():
        pq = require("pyarrow.parquet", "a LeRobot dataset")
        table = pq.read_table(path / "meta/tasks.parquet").to_pydict()
        texts: list[Any] = next((v for k, v in table.items() if k != "task_index"), [])
        pairs = list(zip(table.get("task_index", []), texts, strict=False))
    elif (path / "meta/tasks.jsonl").is_file():
        lines = (path / "meta/tasks.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines if line.strip()]
        pairs = [(int(task["task_index"]), str(task["task"])) for task in found]
    return [str(text) for _, text in sorted(pairs)]


def _index(path: Path, files: list[Path], fps: float) -> tuple[list[int], bool, bool]:
    """Return the episodes' lengths, whether times are irregular, whether there are many tasks."""
    pq = require("pyarrow.parquet", "a LeRobot dataset")
    lengths: dict[int, int] = {}
    irregular, tasks = False, set()
    for file in files:
        try:
            columns = ["episode_index", "frame_index", "timestamp", "task_index"]
            table = pq.read_table(file, columns=columns)
            episode, frame, time, task = (table[c].to_numpy() for c in columns)
        except (OSError, KeyError, ValueError) as error:
            found = f"cannot be read ({' '.join(str(error).split())})"
            raise ReplayError(path, file.name, found, "download it again") from error
        for number, count in zip(*np.unique(episode, return_counts=True), strict=True):
            lengths[int(number)] = lengths.get(int(number), 0) + int(count)
        irregular |= bool(np.abs(time - frame / fps).max(initial=0.0) > 1e-4)
        tasks |= set(np.unique(task).tolist())
    if sorted(lengths) != list(range(len(lengths))):
        found = f"{len(lengths)} episodes are numbered up to {max(lengths)}"
        raise ReplayError(path, "data", found, "download the missing files")
    return [lengths[i] for i in range(len(lengths))], irregular, tasks != {0}


def _episodes(
    path: Path, files: list[Path], fields: Mapping[str, np.dtype[Any]], lengths: list[int]
) -> Iterator[Episode]:
    """Yield episodes from batches of rows; what is held is one episode and one batch."""
    pq = require("pyarrow.parquet", "a LeRobot dataset")
    held: list[Episode] = []
    number, rows = 0, 0
    batch_rows = _BATCH_ROWS if all(k.ndim < 3 for k in fields.values()) else _BATCH_PICTURES
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(batch_rows, columns=list(fields)):
            arrays = {
                name: _values(path, batch.column(name), name, k) for name, k in fields.items()
            }
            start, count = 0, batch.num_rows
            while start < count:
                stop = min(count, start + lengths[number] - rows)
                held.append({name: values[start:stop] for name, values in arrays.items()})
                rows, start = rows + stop - start, stop
                if rows == lengths[number]:
                    yield {name: np.concatenate([part[name] for part in held]) for name in fields}
                    held, rows, number = [], 0, number + 1


def _values(path: Path, column: Any, name: str, kind: np.dtype[Any]) -> NDArray[Any]:
    """Turn a column, nested or not, into ``(rows, *shape)``."""
    rows = len(column)
    if hasattr(column.type, "get_field_index"):  # a struct: bytes and path of a picture
        whole = pictures(path, column, name, np.dtype((np.uint8, kind.shape)))
        return whole.astype(kind.base, copy=False)
    while hasattr(column, "flatten") and hasattr(column.type, "value_type"):
        column = column.flatten()
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype != kind.base or values.size != rows * int(np.prod(kind.shape, dtype=int)):
        found = f"holds {values.size} of {values.dtype} in {rows} rows"
        raise ReplayError(path, name, found, f"info.json says {kind}")
    return np.asarray(values).reshape(rows, *kind.shape)
