"""Write LeRobot dataset folders, v3.0 or v2.1.

Arrays of several axes are written flat, and restored when read here. Images become pictures inside
the parquet files (LeRobot's ``image``, PNG, without loss), or videos where that is asked for. Needs
pyarrow.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.lerobot_films import Codec, Films, is_film
from pcm_policy.datasets.formats.lerobot_films import feature as film_feature
from pcm_policy.datasets.formats.lerobot_images import WIDEST, is_image, picture_column
from pcm_policy.datasets.formats.lerobot_index import OWN
from pcm_policy.datasets.formats.lerobot_layouts import LAYOUTS, Layout
from pcm_policy.datasets.formats.lerobot_modality import PLACE as MODALITY
from pcm_policy.datasets.formats.lerobot_statistics import Statistics
from pcm_policy.datasets.recording import META, Episode, Recording, section
from pcm_policy.errors import PcmError
from pcm_policy.optional import require

_TASK = "unnamed"
_TYPES = {"bool", "float16", "float32", "float64"}
_TYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def write_lerobot(
    path: Path,
    recording: Recording,
    version: Literal["v3.0", "v2.1"] = "v3.0",
    video: Codec | None = None,
) -> list[str]:
    """Write a folder that appears whole or not at all; returns notes.

    Raises:
        PcmError: no rate is known, or another version; or a ReplayError: an array that is wide and
            no image, or has a name that LeRobot writes itself.
    """
    require("pyarrow", "a LeRobot dataset", "convert")
    if version not in LAYOUTS:
        raise PcmError(f"lerobot_version={version}: {' and '.join(LAYOUTS)} can be written")
    fps = recording.meta.get("fps")
    if fps is None:
        raise PcmError(f"{recording.path} does not say its rate: give fps=...")
    own = section(recording.meta, "lerobot").get("own", [])
    for name, kind in recording.fields.items():
        _check(recording.path, name, kind, name in own)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        _Writer(scratch, recording, fps, LAYOUTS[version](scratch), video).run()
        scratch.chmod(0o755)
        scratch.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    notes = [
        f"{name} has odd sizes or other values than bytes: pictures, no video"
        for name, kind in recording.fields.items()
        if video is not None and is_image(kind) and not is_film(kind)
    ]
    if "action" not in recording.fields:
        own = ": rename=[actions:action] would give one" if "actions" in recording.fields else ""
        notes.append(f"no action, which LeRobot's policies ask for{own}")
    if not any(name.startswith("observation.") for name in recording.fields):
        notes.append("nothing is called observation.*: rename=[state:observation.state] would")
    return notes


def _check(path: Path, name: str, kind: np.dtype[Any], own: bool) -> None:
    """Refuse an array that LeRobot has no column for."""
    if name in OWN and not (own and kind.shape == ()):
        found = "is the name of a column that LeRobot writes itself"
        fix = f"rename=[{name}:observation.{name}] keeps it"
        raise ReplayError(path, name, found, fix, name)
    if "/" in name:
        fix = f"rename=[{name}:{name.replace('/', '.')}]"
        raise ReplayError(path, name, "has a slash, which LeRobot's names have not", fix, name)
    if np.prod(kind.shape, dtype=int) > WIDEST and not is_image(kind):
        found = f"has steps of {kind.shape}, which are too wide for a column and no images"
        raise ReplayError(path, name, found, "images are (H, W, 1 or 3)", name)
    if kind.base.name not in _TYPES:
        fix = "store it as float64"
        raise ReplayError(path, name, f"holds {kind.base}, which no column holds", fix, name)


class _Writer:
    """Columns and statistics of every episode as it passes; the layout puts them into files."""

    def __init__(
        self, root: Path, recording: Recording, fps: float, layout: Layout, video: Codec | None
    ) -> None:
        self.root, self.recording, self.fps, self.layout = root, recording, fps, layout
        self.section = section(recording.meta, "lerobot")
        self.tasks = self.section.get("tasks") or [_TASK]
        self.images = {name for name, kind in recording.fields.items() if is_image(kind)}
        filmed = {k: v for k, v in recording.fields.items() if k in self.images and is_film(v)}
        codec, joined = video or "av1", layout.version == "v3.0"
        self.films = Films(root, filmed if video else {}, codec, fps, joined=joined)
        self.statistics: dict[str, Statistics] = {}
        self.count = self.frames = 0

    def run(self) -> None:
        """Write everything."""
        try:
            for episode in self.recording.read():
                self._episode(episode)
        finally:
            self.films.close()
        self.layout.finish(self.tasks, self.statistics)
        (self.root / "meta/info.json").write_text(json.dumps(self._info(), indent=2))
        if modality := self.section.get("modality"):
            (self.root / MODALITY).write_text(json.dumps(modality, indent=2))

    def _episode(self, episode: Episode) -> None:
        pa = require("pyarrow", "LeRobot", "convert")
        steps = len(next(iter(episode.values())))
        columns = self._columns(episode, steps)
        images = {k: v for k, v in episode.items() if k in self.images}
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
        filmed = {name: values for name, values in images.items() if name in self.films}
        for name, values in images.items():
            if name not in filmed:
                stored[name] = picture_column(self.recording.path, name, values)
        row |= self.films.add(self.count, filmed)
        self.layout.add(pa.table(stored), row, own, self.frames)
        self.count += 1
        self.frames += steps

    def _columns(self, episode: Episode, steps: int) -> Episode:
        """Return an episode's numbers and LeRobot's own columns, each ``(steps,)`` or wider."""
        frame = np.arange(steps)
        columns: Episode = {"timestamp": (frame / self.fps).astype(np.float32)}
        for name, values in episode.items():
            if name not in self.images:
                flat = values.reshape(steps, -1)
                columns[name] = flat[:, 0] if flat.shape[1] == 1 else flat
        columns |= {"frame_index": frame, "episode_index": np.full(steps, self.count)}
        columns["index"] = self.frames + frame
        columns.setdefault("task_index", np.zeros(steps, np.int64))
        return columns

    def _info(self) -> dict[str, Any]:
        features, shapes, types = self._features()
        meta = {k: v for k, v in self.recording.meta.items() if k not in ("lerobot", "fps")}
        meta |= {"shapes": shapes} if shapes else {}
        meta |= {"image_types": types} if types else {}
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
            **self.films.info(self.count),
            "features": features,
            META: meta,
        }

    def _features(self) -> tuple[dict[str, Any], dict[str, list[int]], dict[str, str]]:
        """Return the features, the shapes that were flattened and the types of the images."""
        given = section(self.section, "features")
        features: dict[str, Any] = {}
        shapes: dict[str, list[int]] = {}
        types: dict[str, str] = {}
        for name, kind in self.recording.fields.items():
            if name in self.films:
                features[name] = film_feature(kind, self.films.codec, self.fps)
                continue
            if name in self.images:
                axes = ["height", "width", "channel"]
                features[name] = {"dtype": "image", "shape": list(kind.shape), "names": axes}
                types[name] = kind.base.name
                continue
            width = int(np.prod(kind.shape, dtype=int))
            if kind.shape != (width,):
                shapes[name] = list(kind.shape)
            features[name] = {"dtype": kind.base.name, "shape": [width]}
            features[name]["names"] = given.get(name)
        for name in OWN:
            dtype = "float32" if name == "timestamp" else "int64"
            features.setdefault(name, {"dtype": dtype, "shape": [1], "names": None})
        return features, shapes, types


def _column(pa: Any, values: NDArray[Any]) -> Any:
    native = values.astype(values.dtype.newbyteorder("="), copy=False)  # Arrow knows no other order
    flat = pa.array(native.reshape(-1))
    return flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
