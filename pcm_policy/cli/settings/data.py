"""Settings of ``pcm-data``: one class a subcommand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pcm_policy.cli.settings.common import Common, TaskSettings
from pcm_policy.cli.settings.evaluate import Side, Solving
from pcm_policy.errors import PcmError
from pcm_policy.settings import Count, Positive, Seed


@dataclass(frozen=True, kw_only=True)
class InfoSettings(Common):
    """Settings of ``pcm-data info``.

    Attributes:
        path: the demonstrations
        formats: modules that register formats of their own: see docs/extend.md
    """

    path: str
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ValidateSettings(Common):
    """Settings of ``pcm-data validate``.

    Attributes:
        path: the demonstrations
        filter_key: a filter key that a robomimic file must have
        formats: modules that register formats of their own: see docs/extend.md
    """

    groups: ClassVar[Mapping[str, str | None]] = {"task": "custom"}

    path: str
    formats: tuple[str, ...] = ()
    filter_key: str | None = None
    task: TaskSettings


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(Solving):
    """Settings of ``pcm-data generate``.

    Attributes:
        path: file to write, *.hdf5 (robomimic), *.zarr ...
        output: the same, by another name
        policy: a policy to roll out; null: the task's scripted expert
        episodes: successful episodes to write
        attempts: give up after this many
        failures: count and write failed episodes as well; for pcm-distill dataset.more=[...]
        seed: of the first episode; episode i has seed + i
        workers: by an expert: processes; null: one a core, fewer where memory is short
        max_steps: of an episode; null: the environment's own limit
        num_envs: by a policy: environments side by side; null: as in pcm-eval
        mode: by a policy: async: one process an environment
        solve_batch: by a policy: rows of every solve
    """

    groups: ClassVar[Mapping[str, str | None]] = {
        "task": "custom",
        "solver": "default",
        "runtime": "default",
    }

    path: str | None = None
    output: str | None = None
    policy: str | None = None  # type: ignore[assignment]
    episodes: Count = 100
    attempts: Count = 10_000
    failures: bool = False
    seed: Seed = 0
    workers: Count | None = None
    max_steps: Count | None = None
    num_envs: Count | None = None
    mode: Side = "sync"
    solve_batch: Count = 50
    task: TaskSettings

    def __post_init__(self) -> None:
        if self.path is None and self.output is None:
            raise PcmError("give path=... (or output=...): the file to write")
        if self.path is not None and self.output is not None:
            raise PcmError(f"path={self.path} and output={self.output}: give one of them")


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Common):
    """Settings of ``pcm-data convert``.

    Attributes:
        path: the demonstrations
        target: *.zarr, *.zarr.zip, *.hdf5 (robomimic), minari:ID or a folder (LeRobot)
        rename: arrays to rename, as [old:new]
        leave_out: arrays to leave out
        fps: rate of the recording; null: as the source says
        zarr_format: of a zarr target; 2 is read by every zarr
        lerobot_version: of a LeRobot target
        images: cameras of a LeRobot source to decode, as [observation.images.top]; all
        formats: modules that register formats of their own: see docs/extend.md
    """

    path: str
    target: str
    rename: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    fps: Positive | None = None
    zarr_format: Literal[2, 3] = 2
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0"
    images: Literal["all"] | tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pair in self.rename:
            if not all(pair.partition(":")):
                raise PcmError(f"rename={list(self.rename)}: give pairs old:new")


@dataclass(frozen=True, kw_only=True)
class AbsoluteSettings(Common):
    """Settings of ``pcm-data absolute``.

    Attributes:
        path: robosuite's demonstrations with delta actions, *.hdf5
        target: the file to write, *.hdf5
    """

    path: str
    target: str
