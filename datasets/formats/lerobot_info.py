"""``meta/info.json`` of a LeRobot folder, checked: rate, version, features, where the data are."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.unknown import LFS, what_it_is
from pcm_policy.optional import require

FILE = "meta/info.json"
KINDS = ("video", "image")
_AGAIN = "download it again"
_PATHS = {
    "2": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "3": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
_LARGEST = 1 << 31
"""Values of a step."""


@dataclass(frozen=True)
class Feature:
    """One entry of ``features``.

    Attributes:
        dtype: as written there.
        shape: of a step.
        names: of its columns, as written there.
        depth: whether it is a video of depths.
    """

    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    depth: bool = False

    @property
    def camera(self) -> bool:
        """Whether it holds pictures."""
        return self.dtype in KINDS

    @property
    def number(self) -> np.dtype[Any] | None:
        """NumPy's type of its numbers; None when it holds others."""
        try:
            found = np.dtype(self.dtype)
        except (TypeError, ValueError, SyntaxError):
            return None
        return found if found.kind in "biuf" and found.shape == () else None


@dataclass(frozen=True)
class Info:
    """What is used of ``info.json``.

    Attributes:
        text: all of it.
        version: ``2`` or ``3``.
        fps: rate of the recording, 1/s.
        features: by name.
    """

    text: Mapping[str, Any]
    version: str
    fps: float
    features: Mapping[str, Feature]

    def total(self, name: str) -> int | None:
        """Return ``total_episodes`` or ``total_frames``; None where it is not said."""
        value = self.text.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_info(path: Path) -> Info:
    """Read and check ``meta/info.json``.

    Raises:
        ReplayError: it is missing, damaged, of another version, or an entry is not what it must be.
    """
    text = _object(path)
    version = str(text.get("codebase_version"))
    if not version.startswith(("v2.", "v3.")):
        found = f"has version {text.get('codebase_version')}"
        raise ReplayError(path, FILE, found, "convert it with LeRobot to v3.0")
    fps = text.get("fps")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < math.inf:
        found = f"has fps {fps}"
        raise ReplayError(path, FILE, found, "write the rate of the recording there")
    features = text.get("features")
    if not isinstance(features, dict) or not features:
        raise ReplayError(path, FILE, "lists no features", _AGAIN)
    read = {name: _feature(path, name, about) for name, about in features.items()}
    return Info(text, version[1], float(fps), read)


def damaged(path: Path, file: Path, error: Exception) -> ReplayError:
    """Return the fault of a file that cannot be read: what it is instead, or what was raised."""
    named = None
    with suppress(OSError), file.open("rb") as opened:
        named = what_it_is(file) if opened.read(len(LFS)) == LFS else None
    found = f"cannot be read ({' '.join(str(error).split())})"
    return ReplayError(path, str(file.relative_to(path)), *(named or (found, _AGAIN)))


def _object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads((path / FILE).read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, path / FILE, error) from error
    return found


def _feature(path: Path, name: str, about: Any) -> Feature:
    where = f"{FILE}: features: {name}"
    if not isinstance(about, dict):
        raise ReplayError(path, where, f"is {about!r}", "give its dtype and shape there")
    dtype, shape = about.get("dtype"), about.get("shape")
    if not isinstance(dtype, str):
        raise ReplayError(path, where, f"has dtype {dtype!r}", "write its type there")
    whole = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    kind = Feature(dtype, ()).number
    if not isinstance(shape, list) or (not whole and (kind is not None or dtype in KINDS)):
        raise ReplayError(path, where, f"has shape {shape!r}", "write the shape of a step there")
    sizes = tuple(shape) if whole else ()
    if math.prod(sizes) > _LARGEST or len(sizes) > 16:
        found = f"has steps of {shape}, more values than a step can hold"
        raise ReplayError(path, where, found, "write the shape of a step there")
    if dtype in KINDS and len(sizes) != 3:
        fix = "write height, width and channels there"
        raise ReplayError(path, where, f"is a camera of shape {shape}", fix)
    return Feature(dtype, sizes, about.get("names"), _is_depth(about))


def _is_depth(about: Mapping[str, Any]) -> bool:
    for key in ("info", "video_info"):
        more = about.get(key)
        if isinstance(more, dict) and any(more.get(f"{k}is_depth_map") for k in ("", "video.")):
            return True
    return bool(about.get("is_depth_map"))


def data_files(path: Path, info: Info) -> tuple[list[Path], list[Path]]:
    """Return the parquet files with the rows, those that ``info.json`` names.

    Returns:
        The files; and those of v2.x whose number is past ``total_episodes``: LeRobot opens no file
        of an episode that it does not count.

    Raises:
        ReplayError: there are none.
    """
    pattern = info.text.get("data_path")
    if not isinstance(pattern, str) or not pattern.endswith(".parquet"):
        pattern = _PATHS[info.version]
    if ".." in Path(pattern).parts or Path(pattern).is_absolute():
        found = f"has data_path {pattern}, which leads out of the folder"
        raise ReplayError(path, FILE, found, f"write {_PATHS[info.version]} there")
    files = sorted(path.glob(re.sub(r"\{[^}]*\}", "*", pattern)))
    if not files:
        there = sorted((path / "data").glob("**/*.parquet"))
        if there:
            found = f"holds {there[0].relative_to(path)} and nothing like {pattern}"
            fix = f"correct codebase_version or data_path in {FILE}"
            raise ReplayError(path, "data", found, fix)
        raise ReplayError(path, "data", "holds no parquet files", "download them as well")
    total = info.total("total_episodes")
    if info.version != "2" or total is None:
        return files, []
    number = re.compile(r"(\d+)\.parquet$")
    counted = [f for f in files if (m := number.search(f.name)) is None or int(m[1]) < total]
    return counted or files, sorted(set(files) - set(counted or files))


def read_tasks(path: Path) -> list[str]:
    """Return the tasks in the order of their numbers.

    Raises:
        ReplayError: the file of the tasks is damaged.
    """
    table, lines = path / "meta/tasks.parquet", path / "meta/tasks.jsonl"
    pairs: list[Any] = []
    try:
        if table.is_file():
            pq = require("pyarrow.parquet", "a LeRobot dataset", "convert")
            columns = pq.read_table(table).to_pydict()
            texts: list[Any] = next((v for k, v in columns.items() if k != "task_index"), [])
            pairs = list(zip(columns.get("task_index", []), texts, strict=False))
        elif lines.is_file():
            rows = [json.loads(line) for line in lines.read_text().splitlines() if line.strip()]
            pairs = [(int(task["task_index"]), str(task["task"])) for task in rows]
        return [str(text) for _, text in sorted(pairs)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        file = table if table.is_file() else lines
        raise damaged(path, file, error) from error
