"""How LeRobot lays a dataset's files out: v3.0 as 0.4.4 writes it, v2.1 as 0.3 did.

A layout takes an episode's table as it comes and, at the end, what the episodes have in common.
v3.0 joins episodes in files of about 100 MB and indexes them in parquet; v2.1 has a file for every
episode and indexes them in lines of JSON.
"""

import json
from pathlib import Path
from typing import Any

from pcm_policy.datasets.formats.lerobot_statistics import Statistics
from pcm_policy.optional import require

_FILE_BYTES = 100 << 20
_CHUNK_FILES = 1000
Row = dict[str, Any]


class LayoutV3:
    """v3.0: what is open is one parquet file."""

    version = "v3.0"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rows: list[Row] = []
        self.file = self.size = 0
        self.parquet: Any = None

    def add(self, table: Any, row: Row, statistics: dict[str, Statistics], start: int) -> None:
        """Write an episode.

        Args:
            table: its columns.
            row: ``episode_index``, ``tasks``, ``length``, and where its videos are.
            statistics: of its columns.
            start: index of its first step in the dataset.
        """
        pq = require("pyarrow.parquet", "LeRobot", "convert")
        if self.parquet is not None and self.size + table.nbytes > _FILE_BYTES:
            self._close()
            self.file += 1
        chunk, file = divmod(self.file, _CHUNK_FILES)
        if self.parquet is None:
            target = self.root / f"data/chunk-{chunk:03d}/file-{file:03d}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            self.parquet = pq.ParquetWriter(target, table.schema)
        self.parquet.write_table(table)
        self.size += table.nbytes
        place = {"data/chunk_index": chunk, "data/file_index": file}
        place |= {"dataset_from_index": start, "dataset_to_index": start + row["length"]}
        own = {
            f"stats/{name}/{k}": v
            for name, found in statistics.items()
            for k, v in found.summary().items()
        }
        index = {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        self.rows.append(row | place | own | index)

    def finish(self, tasks: list[str], statistics: dict[str, Statistics]) -> None:
        """Write the tables that index the data."""
        pa, pq = (
            require("pyarrow", "LeRobot", "convert"),
            require("pyarrow.parquet", "LeRobot", "convert"),
        )
        self._close()
        target = self.root / "meta/episodes/chunk-000"
        target.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(self.rows), target / "file-000.parquet")
        index = "__index_level_0__"
        table = pa.table({"task_index": list(range(len(tasks))), index: tasks})
        types = (("task_index", "int64", "int64"), (None, "unicode", "object"))
        columns = [
            {"name": n, "field_name": n or index, "pandas_type": p, "numpy_type": t}
            for n, p, t in types
        ]  # as pandas writes it: the tasks are the index
        pandas = {"index_columns": [index], "column_indexes": [], "columns": columns}
        table = table.replace_schema_metadata({"pandas": json.dumps(pandas)})
        pq.write_table(table, self.root / "meta/tasks.parquet")
        summary = {name: found.summary() for name, found in statistics.items()}
        (self.root / "meta/stats.json").write_text(json.dumps(summary, indent=2))

    def info(self) -> Row:
        """Return what ``info.json`` says of the layout."""
        return {
            "data_files_size_in_mb": _FILE_BYTES >> 20,
            "video_files_size_in_mb": 200,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        }

    def _close(self) -> None:
        if self.parquet is not None:
            self.parquet.close()
        self.parquet, self.size = None, 0


class LayoutV21:
    """v2.1: nothing stays open."""

    version = "v2.1"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        (root / "meta").mkdir(parents=True)

    def add(self, table: Any, row: Row, statistics: dict[str, Statistics], start: int) -> None:
        """Write an episode; see :meth:`LayoutV3.add`."""
        pq = require("pyarrow.parquet", "LeRobot", "convert")
        chunk = self.count // _CHUNK_FILES
        target = self.root / f"data/chunk-{chunk:03d}/episode_{self.count:06d}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target)
        own = {name: found.summary() for name, found in statistics.items()}
        self._line("episodes", {k: v for k, v in row.items() if not k.startswith("videos/")})
        self._line("episodes_stats", {"episode_index": self.count, "stats": own})
        self.count += 1

    def finish(self, tasks: list[str], statistics: dict[str, Statistics]) -> None:
        """Write the tasks; the statistics are those of the episodes."""
        for number, task in enumerate(tasks):
            self._line("tasks", {"task_index": number, "task": task})

    def info(self) -> Row:
        """Return what ``info.json`` says of the layout."""
        path = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        chunks = -(-self.count // _CHUNK_FILES)
        return {"total_chunks": chunks, "data_path": path}

    def _line(self, name: str, values: Row) -> None:
        with (self.root / f"meta/{name}.jsonl").open("a") as file:
            file.write(json.dumps(values) + "\n")


Layout = LayoutV3 | LayoutV21
LAYOUTS: dict[str, type[LayoutV3] | type[LayoutV21]] = {"v3.0": LayoutV3, "v2.1": LayoutV21}
