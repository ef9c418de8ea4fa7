"""Settings of ``pcm-data``: one class a subcommand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pcm_policy.cli.settings.common import Common, TaskSettings
from pcm_policy.cli.settings.evaluate import RaySettings, Side, Solving
from pcm_policy.errors import PcmError
from pcm_policy.settings import Count, Natural, Positive, Rows, Seed


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
        shard: which part of the seeds to run, from 0, for the file that the same command without it
            writes; null: as torchrun or Slurm number this process, else all
        shards: how many parts there are
        launcher: ray runs the episodes in Ray's processes, threads= CPUs each (null: 1), as many
            as there are
        ray: of launcher=ray
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
    solve_batch: Rows = 50
    shard: Natural | None = None
    shards: Count | None = None
    launcher: Literal["local", "ray"] = "local"
    ray: RaySettings = field(default_factory=RaySettings)
    task: TaskSettings

    def __post_init__(self) -> None:
        if self.path is None and self.output is None:
            raise PcmError("give path=... (or output=...): the file to write")
        if self.path is not None and self.output is not None:
            raise PcmError(f"path={self.path} and output={self.output}: give one of them")
        if self.launcher == "ray" and (self.shard, self.shards) != (None, None):
            raise PcmError("launcher=ray runs all shards: leave shard and shards out")
        if self.launcher == "ray" and self.workers is not None:
            raise PcmError(
                "workers with launcher=ray: Ray's processes are the workers; leave it out"
            )


@dataclass(frozen=True, kw_only=True)
class ConvertSettings(Common):
    """Settings of ``pcm-data convert``.

    Attributes:
        path: the demonstrations
        target: NAME.zarr, .zarr.zip or .hdf5 (robomimic), minari:ID or a folder (LeRobot); of a
            folder of parts DIR/*.zarr, each part on its own
        processes: parts that are converted at once
        rename: arrays to rename, as [old:new]
        leave_out: arrays to leave out
        fps: rate of the recording; null: as the source says
        zarr_format: of a zarr target; 2 is read by every zarr
        lerobot_version: of a LeRobot target
        lerobot_video: how its cameras are encoded, av1 or h264; null: pictures, without loss
        images: cameras of a LeRobot source to decode, as [observation.images.top]; all
        formats: modules that register formats of their own: see docs/extend.md
    """

    path: str
    target: str
    processes: Count = 1
    rename: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    fps: Positive | None = None
    zarr_format: Literal[2, 3] = 2
    lerobot_version: Literal["v3.0", "v2.1"] = "v3.0"
    lerobot_video: Literal["av1", "h264"] | None = None
    images: Literal["all"] | tuple[str, ...] = ()
    formats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for pair in self.rename:
            if not all(pair.partition(":")):
                raise PcmError(f"rename={list(self.rename)}: give pairs old:new")


@dataclass(frozen=True, kw_only=True)
class ManifestSettings(Common):
    """Settings of ``pcm-data manifest``.

    Attributes:
        path: folder whose entries are the parts of one data set
        overwrite: replace the manifest that is there
        formats: modules that register formats of their own: see docs/extend.md
    """

    path: str
    overwrite: bool = False
    formats: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class VerifySettings(Common):
    """Settings of ``pcm-data verify``.

    Attributes:
        path: folder with a manifest
    """

    path: str


@dataclass(frozen=True, kw_only=True)
class AbsoluteSettings(Common):
    """Settings of ``pcm-data absolute``.

    Attributes:
        path: robosuite's demonstrations with delta actions, *.hdf5
        target: the file to write, *.hdf5
    """

    path: str
    target: str
