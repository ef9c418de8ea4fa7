"""Small LeRobot folders for tests, in which every row says where it is from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTHS = (12, 7, 9)
NUMBERS = {"shape": [1], "names": None}
INDEX = ("frame_index", "episode_index", "index", "task_index")


def pairs(values: np.ndarray) -> pa.Array:
    """A column of lists of one length."""
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def rows(episode: int, steps: int, start: int) -> dict[str, Any]:
    """Columns of an episode: ``observation.state`` holds episode and step."""
    frame = np.arange(steps)
    state = np.stack([np.full(steps, episode), frame], 1).astype(np.float32)
    return {
        "observation.state": pairs(state),
        "action": pairs(state + 1),
        "timestamp": pa.array((frame / 10).astype(np.float32)),
        "frame_index": pa.array(frame),
        "episode_index": pa.array(np.full(steps, episode)),
        "index": pa.array(start + frame),
        "task_index": pa.array(np.zeros(steps, np.int64)),
    }


def table(lengths: tuple[int, ...] = LENGTHS) -> pa.Table:
    """The rows of all episodes."""
    starts = np.cumsum([0, *lengths])
    return pa.concat_tables([pa.table(rows(e, n, int(starts[e]))) for e, n in enumerate(lengths)])


def features(more: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """``features`` of ``info.json``."""
    two = {"dtype": "float32", "shape": [2], "names": None}
    found: dict[str, Any] = {"observation.state": dict(two), "action": dict(two)}
    found |= {"timestamp": {"dtype": "float32"} | NUMBERS}
    found |= {name: {"dtype": "int64"} | NUMBERS for name in INDEX}
    return found | dict(more or {})


def folder(
    root: Path,
    files: Mapping[str, pa.Table],
    lengths: tuple[int, ...] = LENGTHS,
    more: Mapping[str, Any] | None = None,
    **info: Any,
) -> Path:
    """Write parquet files by name, ``meta/info.json``, and for v3.0 ``meta/episodes``."""
    data = root / "data/chunk-000"
    data.mkdir(parents=True)
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    for name, values in files.items():
        pq.write_table(values, data / name)
    known = {
        "codebase_version": "v3.0",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "fps": 10,
        "features": features(more),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
    }
    (root / "meta/info.json").write_text(json.dumps(known | info))
    said = [{"episode_index": e, "length": n} for e, n in enumerate(lengths)]
    place = root / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pa.Table.from_pylist(said), place)
    return root


def with_column(name: str, values: Any) -> pa.Table:
    """All rows with one more column."""
    return table().append_column(name, values)
