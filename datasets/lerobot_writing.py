"""Write LeRobot dataset folders, v3.0, as LeRobot 0.4.4 lays them out.

Arrays of several axes are written flat, and restored when read here; videos are not written.
Needs pyarrow.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.lerobot import INDEX
from pcm_policy.datasets.recording import META, Episode, Recording, require
from pcm_policy.errors import PcmError

_FILE_BYTES = 100 << 20
_WIDEST = 4096
_TASK = "unnamed"


def write_lerobot(path: Path, recording: Recording) -> list[str]:
    """Write a v3.0 folder that appears whole or not at all; returns notes.

    Raises:
        PcmError: an array that is an image, or no rate is known.
    """
    require("pyarrow", "a LeRobot dataset")
    fps = recording.meta.get("fps")
    if fps is None:
        raise PcmError(f"{recording.path} does not say its rate: give fps=...")
    for name, kind in recording.fields.items():
        if np.prod(kind.shape, dtype=int) > _WIDEST:
            raise PcmError(
                f"{recording.path}: {name} has steps of {kind.shape}: LeRobot keeps images in "
                f"videos, which are not written; leave_out=[{name}] leaves it out"
            )
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _Writer(scratch, recording, fps).run()
        scratch.chmod(0o755)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    notes = [] if "action" in recording.fields else ["no action: LeRobot's policies ask for one"]
    if not any(name.startswith("observation.") for name in recording.fields):
        notes.append("nothing is called observation.*: rename={state: observation.state} would")
    return notes


class _Writer:
    """Data files of about 100 MB, statistics as they pass, and the tables that index them."""

    def __init__(self, root: Path, recording: Recording, fps: float) -> None:
        self.root, self.recording, self.fps = root, recording, fps
        self.section = recording.meta.get("lerobot", {})
        self.tasks = self.section.get("tasks") or [_TASK]
        self.stats: dict[str, _Statistics] = {}
        self.rows: list[dict[str, Any]] = []
        self.frames = self.file = self.size = 0
        self.parquet: Any = None

    def run(self) -> None:
        """Write everything."""
        for number, episode in enumerate(self.recording.episodes()):
            self._episode(number, episode)
        if self.parquet is not None:
            self.parquet.close()
        self._tables()

    def _episode(self, number: int, episode: Episode) -> None:
        pa, pq = require("pyarrow", "LeRobot"), require("pyarrow.parquet", "LeRobot")
        steps = len(next(iter(episode.values())))
        frame = np.arange(steps)
        columns: Episode = {"timestamp": (frame / self.fps).astype(np.float32)}
        for name, values in episode.items():
            flat = values.reshape(steps, -1)
            columns[name] = flat[:, 0] if flat.shape[1] == 1 else flat
        columns |= {"frame_index": frame, "episode_index": np.full(steps, number)}
        columns["index"] = self.frames + frame
        columns.setdefault("task_index", np.zeros(steps, np.int64))
        arrays = {name: _column(pa, values) for name, values in columns.items()}
        table = pa.table(arrays)
        if self.parquet is not None and self.size + table.nbytes > _FILE_BYTES:
            self.parquet.close()
            self.parquet, self.size, self.file = None, 0, self.file + 1
        chunk, file = divmod(self.file, 1000)
        if self.parquet is None:
            target = self.root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            self.parquet = pq.ParquetWriter(target, table.schema)
        self.parquet.write_table(table)
        self.size += table.nbytes
        own: dict[str, Any] = {}
        for name, values in columns.items():
            found = _Statistics.of(values.reshape(steps, -1))
            self.stats[name] = self.stats[name].joined(found) if name in self.stats else found
            own |= {f"stats/{name}/{k}": v for k, v in found.summary().items()}
        done = sorted({int(i) for i in columns["task_index"]})
        if done[0] < 0 or done[-1] >= len(self.tasks):
            raise PcmError(f"{self.recording.path}: task_index {done[-1]} has no task")
        row = {"episode_index": number, "tasks": [self.tasks[i] for i in done], "length": steps}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + steps}
        self.rows.append(
            row | own | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
        self.frames += steps

    def _tables(self) -> None:
        pa, pq = require("pyarrow", "LeRobot"), require("pyarrow.parquet", "LeRobot")
        target = self.root / "meta/episodes/chunk-000"
        target.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.rows), target / "file-000.parquet")
        numbers = list(range(len(self.tasks)))
        index = "__index_level_0__"
        table = pa.table({"task_index": numbers, index: self.tasks})
        types = (("task_index", "int64", "int64"), (None, "unicode", "object"))
        columns = [
            {"name": n, "field_name": n or index, "pandas_type": p, "numpy_type": t}
            for n, p, t in types
        ]  # as pandas writes it: the tasks are the index
        pandas = {"index_columns": [index], "column_indexes": [], "columns": columns}
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
        pq.write_table(table, self.root / "meta/tasks.parquet")
        summary = {name: found.summary() for name, found in self.stats.items()}
        (self.root / "meta/stats.json").write_text(json.dumps(summary, indent=2))
        (self.root / "meta/info.json").write_text(json.dumps(self._info(), indent=2))

    def _info(self) -> dict[str, Any]:
        given = self.section.get("features", {})
        features: dict[str, Any] = {}
        shapes = {}
        for name, kind in self.recording.fields.items():
            width = int(np.prod(kind.shape, dtype=int))
            if kind.shape != (width,):
                shapes[name] = list(kind.shape)
            features[name] = {"dtype": kind.base.name, "shape": [width]}
            features[name]["names"] = given.get(name)
        for name in ("timestamp", *INDEX, "task_index"):
            dtype = "float32" if name == "timestamp" else "int64"
            features.setdefault(name, {"dtype": dtype, "shape": [1], "names": None})
        meta = {k: v for k, v in self.recording.meta.items() if k not in ("lerobot", "fps")}
        count = len(self.rows)
        return {
            "codebase_version": "v3.0",
            "robot_type": self.section.get("robot_type"),
            "total_episodes": count,
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": 1000,
            "data_files_size_in_mb": _FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{count}"},
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": None,
            "features": features,
            META: meta | ({"shapes": shapes} if shapes else {}),
        }


class _Statistics:
    """Minimum, maximum, mean and deviation of rows, merged as they come (Chan et al. 1979)."""

    def __init__(self, count: int, low: Any, high: Any, mean: Any, square: Any) -> None:
        self.count, self.low, self.high, self.mean, self.square = count, low, high, mean, square

    @classmethod
    def of(cls, rows: NDArray[Any]) -> "_Statistics":
        """Take the statistics of ``(n, D)`` rows in float64."""
        rows = rows.astype(np.float64)
        mean = rows.mean(0)
        return cls(len(rows), rows.min(0), rows.max(0), mean, ((rows - mean) ** 2).sum(0))

    def joined(self, other: "_Statistics") -> "_Statistics":
        """Return the statistics of both sets of rows."""
        count = self.count + other.count
        step = other.mean - self.mean
        return _Statistics(
            count,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.mean + step * (other.count / count),
            self.square + other.square + step**2 * (self.count * other.count / count),
        )

    def summary(self) -> dict[str, list[float]]:
        """Return what LeRobot keeps of them, less the quantiles."""
        values = {"min": self.low, "max": self.high, "mean": self.mean}
        values["std"] = np.sqrt(self.square / self.count)
        return {k: v.tolist() for k, v in values.items()} | {"count": [self.count]}


def _column(pa: Any, values: NDArray[Any]) -> Any:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
