"""Write LeRobot dataset folders, v3.0 or v2.1.

Arrays of several axes are written flat, and restored when read here. Images become pictures inside
the parquet files (LeRobot's ``image``, PNG, without loss), not videos. Needs pyarrow.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.formats.lerobot import INDEX
from pcm_policy.datasets.formats.lerobot_images import WIDEST, is_image, picture_column
from pcm_policy.datasets.formats.lerobot_layouts import LAYOUTS, Layout
from pcm_policy.datasets.formats.lerobot_statistics import Statistics
from pcm_policy.datasets.recording import META, Episode, Recording, require
from pcm_policy.errors import PcmError

_TASK = "unnamed"


def write_lerobot(
    path: Path, recording: Recording, version: Literal["v3.0", "v2.1"] = "v3.0"
) -> list[str]:
    """Write a folder that appears whole or not at all; returns notes.

    Raises:
        PcmError: an array that is wide and no image, no rate is known, or another version.
    """
    require("pyarrow", "a LeRobot dataset")
    if version not in LAYOUTS:
        raise PcmError(f"lerobot_version={version}: {' and '.join(LAYOUTS)} can be written")
    fps = recording.meta.get("fps")
    if fps is None:
        raise PcmError(f"{recording.path} does not say its rate: give fps=...")
    for name, kind in recording.fields.items():
        if np.prod(kind.shape, dtype=int) > WIDEST and not is_image(kind):
            raise PcmError(
                f"{recording.path}: {name} has steps of {kind.shape}, which are too wide for a "
                f"column and no images (H, W, 1 or 3); leave_out=[{name}] leaves it out"
            )
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _Writer(scratch, recording, fps, LAYOUTS[version](scratch)).run()
        scratch.chmod(0o755)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    notes = [] if "action" in recording.fields else ["no action: LeRobot's policies ask for one"]
    if not any(name.startswith("observation.") for name in recording.fields):
        notes.append("nothing is called observation.*: rename={state: observation.state} would")
    return notes


class _Writer:
    """Columns and statistics of every episode as it passes; the layout puts them into files."""

    def __init__(self, root: Path, recording: Recording, fps: float, layout: Layout) -> None:
        self.root, self.recording, self.fps, self.layout = root, recording, fps, layout
        self.section = recording.meta.get("lerobot", {})
        self.tasks = self.section.get("tasks") or [_TASK]
        self.statistics: dict[str, Statistics] = {}
        self.count = self.frames = 0

    def run(self) -> None:
        """Write everything."""
        for episode in self.recording.episodes():
            self._episode(episode)
        self.layout.finish(self.tasks, self.statistics)
        (self.root / "meta/info.json").write_text(json.dumps(self._info(), indent=2))

    def _episode(self, episode: Episode) -> None:
        pa = require("pyarrow", "LeRobot")
        steps = len(next(iter(episode.values())))
        frame = np.arange(steps)
        columns: Episode = {"timestamp": (frame / self.fps).astype(np.float32)}
        images = {k: v for k, v in episode.items() if is_image(self.recording.fields[k])}
        for name, values in episode.items():
            if name not in images:
                flat = values.reshape(steps, -1)
                columns[name] = flat[:, 0] if flat.shape[1] == 1 else flat
        columns |= {"frame_index": frame, "episode_index": np.full(steps, self.count)}
        columns["index"] = self.frames + frame
        columns.setdefault("task_index", np.zeros(steps, np.int64))
        own = {name: Statistics.of(values.reshape(steps, -1)) for name, values in columns.items()}
        own |= {name: Statistics.of_images(values) for name, values in images.items()}
        for name, found in own.items():
            known = self.statistics.get(name)
            self.statistics[name] = found if known is None else known.joined(found)
        done = sorted({int(i) for i in columns["task_index"]})
        if done[0] < 0 or done[-1] >= len(self.tasks):
            raise PcmError(f"{self.recording.path}: task_index {done[-1]} has no task")
        row = {"episode_index": self.count, "tasks": [self.tasks[i] for i in done], "length": steps}
        stored = {name: _column(pa, values) for name, values in columns.items()}
        for name, values in images.items():
            stored[name] = picture_column(self.recording.path, name, values)
        table = pa.table(stored)
        self.layout.add(table, row, own, self.frames)
        self.count += 1
        self.frames += steps

    def _info(self) -> dict[str, Any]:
        given = self.section.get("features", {})
        features: dict[str, Any] = {}
        shapes, types = {}, {}
        for name, kind in self.recording.fields.items():
            if is_image(kind):
                axes = ["height", "width", "channel"]
                features[name] = {"dtype": "image", "shape": list(kind.shape), "names": axes}
                types[name] = kind.base.name
                continue
            width = int(np.prod(kind.shape, dtype=int))
            if kind.shape != (width,):
                shapes[name] = list(kind.shape)
            features[name] = {"dtype": kind.base.name, "shape": [width]}
            features[name]["names"] = given.get(name)
        for name in ("timestamp", *INDEX, "task_index"):
            dtype = "float32" if name == "timestamp" else "int64"
            features.setdefault(name, {"dtype": dtype, "shape": [1], "names": None})
        meta = {k: v for k, v in self.recording.meta.items() if k not in ("lerobot", "fps")}
        return {
            "codebase_version": self.layout.version,
            "robot_type": self.section.get("robot_type"),
            "total_episodes": self.count,
            "total_frames": self.frames,
            "total_tasks": len(self.tasks),
            "chunks_size": 1000,
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{self.count}"},
            **self.layout.info(),
            "features": features,
            META: meta
            | ({"shapes": shapes} if shapes else {})
            | ({"image_types": types} if types else {}),
        }


def _column(pa: Any, values: NDArray[Any]) -> Any:
    flat = pa.array(values.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
