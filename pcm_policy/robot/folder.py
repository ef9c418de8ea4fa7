"""A robot's folder: what it holds, and the checks before any of it is executed.

::

    robot/
        robot.json     format version, shapes, ranges, limits, solver, graphs, digests of the files
        *.onnx         the graphs: those of a solve, and with cameras the encoder of a frame
        weights.bin    weights of all graphs, each once
        mixing.npy     (N + 1, N) what a warm start needs of the sampler
        example.npz    a solve of the policy that it was made from; every load repeats it

Nothing here is ever unpickled.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcm_policy.checks import flag, number, text, whole
from pcm_policy.control.settings import ControlSettings, PolicySpec
from pcm_policy.errors import PcmError
from pcm_policy.files import read_json
from pcm_policy.robot.cameras import Cameras, read_cameras
from pcm_policy.robot.program import Graph, Program

VERSION = 2
NAME = "robot.json"
MIXING, EXAMPLE, WEIGHTS = "mixing.npy", "example.npz", "weights.bin"
BESIDE = frozenset({MIXING, EXAMPLE, WEIGHTS})
_FILE = re.compile(r"[A-Za-z0-9_]+\.(onnx|npy|npz|bin)")
ENDS = ("exact", "certified", "rounds", "settled")


@dataclass(frozen=True)
class Package:
    """What ``robot.json`` holds.

    Attributes:
        spec: shapes, rate and ranges of the policy.
        control: settings of a controller, with the limits of every command.
        chunk: ``(T, D)`` of a chunk in the solve; ``D`` is ``Da``, or more where observations are
            part of the trajectory.
        steps: ``N``, steps of the sampler.
        stochastic: whether it adds noise in every step.
        starts: whether the head says where a solve starts, so that ``warm_start=auto`` is off.
        solver: its label.
        settings: the solver's settings, as ``solver.NAME=...`` takes them.
        weights: digest of the policy's weights.
        programs: the solve, ``plain``; and ``warm``, where a guess makes it another one.
        cameras: what encodes images; None for a policy without cameras.
        files: SHA-256 of every file.
        versions: of the packages that wrote it.
    """

    spec: PolicySpec
    control: ControlSettings
    chunk: tuple[int, int]
    steps: int
    stochastic: bool
    starts: bool
    solver: str
    settings: Mapping[str, Any]
    weights: str
    programs: Mapping[str, Program]
    cameras: Cameras | None
    files: Mapping[str, str]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "robot": VERSION,
            **{f.name: getattr(self, f.name) for f in fields(self)},
            "spec": _without_infinities(self.spec.to_dict()),
            "control": asdict(self.control),
            "programs": {name: asdict(one) for name, one in self.programs.items()},
            "cameras": self.cameras and _without_infinities(asdict(self.cameras)),
        }


def used_files(programs: Mapping[str, Program], cameras: Cameras | None) -> frozenset[str]:
    """Return the names of all files beside ``robot.json``."""
    eyes: set[str] = set() if cameras is None else {cameras.file}
    return BESIDE.union(eyes, *(one.files for one in programs.values()))


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_package(folder: Path) -> Package:
    """Read ``robot.json`` and compare every file with it.

    Raises:
        PcmError: the folder or a file is missing, damaged, of another version, or from another
            export.
    """
    path = folder / NAME
    if not path.is_file():
        inner = folder / "robot" / NAME
        hint = "pcm-export formats=[robot] writes one"
        hint = f"name {inner.parent}" if inner.is_file() else hint
        raise PcmError(f"{folder} is no robot's folder, it has no {NAME}: {hint}")
    values = read_json(path)
    if not isinstance(values, dict) or "robot" not in values:
        raise PcmError(f"{path} is not written by pcm-export formats=[robot]: export again")
    if values["robot"] != VERSION:
        raise PcmError(
            f"{path} has version {values['robot']!r}, this pcm_policy reads {VERSION}: export "
            "again, or install the version that wrote it"
        )
    try:
        found = _package(values)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise PcmError(f"{path} is damaged ({what}): export the policy again") from error
    for name, expected in found.files.items():
        _compare(folder / name, expected)
    return found


def read_array(path: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Read an array of numbers; never a pickle.

    Raises:
        PcmError: it is damaged, or of another shape.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise PcmError(f"{path} is damaged ({error}): export the policy again") from error
    if found.shape != shape or found.dtype != np.float32:
        raise PcmError(f"{path} has shape {found.shape}, expected {shape}: export the policy again")
    array: NDArray[np.float32] = found
    return array


def _compare(path: Path, expected: str) -> None:
    if not path.is_file():
        raise PcmError(f"{path} is missing: copy the whole folder, or export the policy again")
    if digest(path) != expected:
        raise PcmError(
            f"{path} is not the file that {NAME} was written with: it is damaged or from another "
            "policy; copy the whole folder again"
        )


def _package(values: Mapping[str, Any]) -> Package:
    names = {f.name for f in fields(Package)}
    if set(values) != names | {"robot"}:
        odd = sorted(set(values) ^ (names | {"robot"}))
        raise ValueError(f"unknown or missing entry {odd[0]}")
    files = {text("file", name): text("digest", one) for name, one in values["files"].items()}
    programs = {name: _program(one) for name, one in values["programs"].items()}
    spec = PolicySpec.from_dict(_with_infinities(values["spec"]))
    seen = values["cameras"]
    cameras = read_cameras(None if seen is None else _with_infinities(seen), spec)
    used = used_files(programs, cameras)
    if used != set(files) or not all(_FILE.fullmatch(name) for name in files):
        raise ValueError("its list of files does not fit its programs")
    if "plain" not in programs or not set(programs) <= {"plain", "warm"}:
        raise ValueError("programs are plain and warm")
    control = ControlSettings.from_dict({k: _tuple(v) for k, v in values["control"].items()})
    control.check(spec)
    horizon, width = values["chunk"]
    return Package(
        spec=spec,
        control=control,
        chunk=(whole("horizon", horizon, spec.horizon, spec.horizon), whole("width", width, 1)),
        steps=whole("steps", values["steps"], 1),
        stochastic=flag("stochastic", values["stochastic"]),
        starts=flag("starts", values["starts"]),
        solver=text("solver", values["solver"]),
        settings=dict(values["settings"]),
        weights=text("weights", values["weights"]),
        programs=programs,
        cameras=cameras,
        files=files,
        versions={text("name", k): text("version", v) for k, v in values["versions"].items()},
    )


def _program(values: Mapping[str, Any]) -> Program:
    given = dict(values)
    graphs = tuple(_graph(one) for one in given.pop("graphs"))
    if not graphs:
        raise ValueError("a program has no graphs")
    ends = given.pop("end")
    found = Program(graphs, end=None if ends is None else _graph(ends), **given)
    whole("most", found.most, 1)
    whole("kept", found.kept, 1)
    whole("over", found.over)
    number("error", found.error, 0)
    if found.deadline_ms is not None:
        number("deadline_ms", found.deadline_ms, above=0)
    if found.used_up not in ENDS or found.done not in (*ENDS, ""):
        raise ValueError("a program ends for an unknown reason")
    return found


def _graph(values: Mapping[str, Any]) -> Graph:
    given = dict(values)
    sources = tuple(whole("place", place) for place in given.pop("sources"))
    found = Graph(sources=sources, **given)
    text("file", found.file)
    whole("calls", found.calls)
    whole("nfe", found.nfe)
    flag("whole", found.whole)
    if found.watch is not None:
        whole("watch", found.watch, 0, len(sources) - 1)
    return found


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _without_infinities(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ranges whose unknown ends are null: JSON has no infinity."""
    return {k: _each(v, lambda x: x if np.isfinite(x) else None) for k, v in values.items()}


def _with_infinities(values: Mapping[str, Any]) -> dict[str, Any]:
    signs = {"low": -np.inf, "high": np.inf}
    return {
        k: _each(v, lambda x, k=k: signs[k.rpartition("_")[2]] if x is None else x)
        for k, v in values.items()
    }


def _each(value: Any, change: Any) -> Any:
    """Change the numbers of a list of numbers; all else stays."""
    if not isinstance(value, list | tuple) or any(isinstance(one, str) for one in value):
        return value
    return [change(one) for one in value]
