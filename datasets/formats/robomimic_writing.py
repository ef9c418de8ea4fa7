"""Write robomimic HDF5 files. Needs h5py."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from pcm_policy.datasets.errors import ReplayError
from pcm_policy.datasets.formats.robomimic_names import native_name, neutral_names
from pcm_policy.datasets.recording import META, Recording, section
from pcm_policy.optional import require

_NO_ENV = {"env_name": "unknown", "type": 2, "env_kwargs": {}}


def write_robomimic(path: Path, recording: Recording) -> list[str]:
    """Write a file that appears whole or not at all; returns what robomimic will miss in it.

    Raises:
        ReplayError: two arrays go to one place.
    """
    h5py = require("h5py", "robomimic's HDF5", "convert")
    own = section(recording.meta, "robomimic")
    natives = places(recording, section(own, "names"))
    meta = {k: v for k, v in recording.meta.items() if k != "robomimic"}
    neutral = neutral_names(sorted(natives.values()))
    if any(neutral.get(name) != native for name, native in natives.items()):
        meta["names"] = natives  # the way back would not find these by itself
    attrs = {"env_args": json.dumps(_NO_ENV)} | section(own, "attrs")
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(scratch, "w") as file:
            data = file.create_group("data")
            numbers = own.get("numbers", range(recording.n_episodes))
            data.attrs["total"] = _demonstrations(data, recording, natives, numbers)
            for key, value in attrs.items():
                data.attrs[key] = value
            if meta:
                data.attrs[META] = json.dumps(meta)
            for key, chosen in section(own, "mask").items():
                file.create_dataset(f"mask/{key}", data=np.array(chosen, dtype="S"))
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    lacking = sorted({"actions", "rewards", "dones"} - set(natives.values()))
    notes = [f"no {name}: robomimic's default config asks for it" for name in lacking]
    if "env_args" not in section(own, "attrs"):
        notes.append("no environment is known: env_args names 'unknown'")
    return notes


def places(recording: Recording, known: dict[str, Any]) -> dict[str, str]:
    """Return the dataset that every array goes to.

    Raises:
        ReplayError: two go to one, or one into another.
    """
    natives: dict[str, str] = {}
    for name in recording.fields:
        native = known.get(name) or native_name(name)
        for other, taken in natives.items():
            if native == taken or native.startswith(f"{taken}/") or taken.startswith(f"{native}/"):
                found = f"goes to {native}, where {other} goes"
                fix = f"rename=[{name}:OTHER] gives it another name"
                raise ReplayError(recording.path, name, found, fix, name)
        natives[name] = native
    return natives


def _demonstrations(data: Any, recording: Recording, natives: dict[str, str], numbers: Any) -> int:
    """Write all episodes; return their steps."""
    total = 0
    told = recording.attributes or (lambda _: {})
    for i, (number, episode) in enumerate(zip(numbers, recording.read(), strict=True)):
        demo = data.create_group(f"demo_{number}")
        for name, values in episode.items():
            demo.create_dataset(natives[name], data=values)
        steps = len(next(iter(episode.values())))
        demo.attrs["num_samples"] = steps
        for key, value in told(i).items():
            demo.attrs[key] = value
        total += steps
    return total
