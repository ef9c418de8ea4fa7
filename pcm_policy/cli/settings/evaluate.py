"""Settings of ``pcm-eval``, ``pcm-bench loop`` and ``pcm-serve``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pcm_policy.cli.settings.common import Common, OnDevice, TaskSettings
from pcm_policy.cli.settings.latency import LatencySection
from pcm_policy.cli.settings.solver import SolverSection
from pcm_policy.control.settings import ControlSettings
from pcm_policy.errors import PcmError
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.serving.options import ServeOptions
from pcm_policy.settings import Count, Natural, NonNegative, Positive, Range, Rows, Seed, Threads

Side = Literal["sync", "async"]


@dataclass(frozen=True, kw_only=True)
class Solving(OnDevice):
    """What every command takes that solves.

    Attributes:
        policy: folder of a policy, a released one, or hf://OWNER/NAME
        solver: how it is solved; null: as the policy (or its PCM head) says
        runtime: how solves are executed
    """

    policy: str = "released/pusht"
    solver: SolverSection = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass(frozen=True, kw_only=True)
class RaySettings:
    """How ``launcher=ray`` spreads episodes.

    Attributes:
        address: HOST:PORT of a cluster, auto for the one of this machine; null: a Ray of its own
        episodes: of a task
        retries: of a task whose process or machine dies
    """

    address: str | None = None
    episodes: Count = 8
    retries: Natural = 3


@dataclass(frozen=True, kw_only=True)
class EvalSettings(Solving):
    """Settings of ``pcm-eval``.

    Attributes:
        policy: folder of a policy, a released one, or robomimic:FILE.pth, robomimic's own BC
        output_dir: gets eval.json and the films
        episodes: how many
        seed: episode i has seed + i
        num_envs: environments side by side; null: 50, or as many processes as fit
        mode: async: one process an environment
        solve_batch: rows of every solve; results do not depend on num_envs or mode, but for the
            last bits where rows end one by one (solver.tolerance, solver.settle) and it is above 1
        max_steps: of an episode; null: the environment's own limit
        video_episodes: numbers of the episodes to film, from 0, as [0, 1]
        latency_calls: timed calls of predict, batch 1; 0: none
        max_excess: observations further outside the training range, in its widths, end an episode;
            null: the policy's
        timeout_s: how long an environment may take for a reset or a chunk with mode=async; null:
            300
        overwrite: replace an eval.json, or a shard, that is there
        shard: which part of the episodes to run, from 0, into shards/ of output_dir; null: as
            torchrun or Slurm number this process, else all episodes
        shards: how many parts there are; pcm-eval merge puts them together
        launcher: ray runs the episodes in Ray's processes, threads= CPUs each (null: 1), as many
            as there are
        ray: of launcher=ray
        control: the controller, where latency or control is set
        latency: how long solves take while the simulator keeps moving
    """

    groups: ClassVar[Mapping[str, str | None]] = {
        "task": "custom",
        "solver": "default",
        "control": "default",
        "latency": "none",
        "runtime": "default",
    }

    output_dir: str
    episodes: Count = 50
    seed: Seed = 100_000
    num_envs: Count | None = None
    mode: Side = "sync"
    solve_batch: Rows = 50
    max_steps: Count | None = None
    video_episodes: tuple[Natural, ...] = ()
    latency_calls: Natural = 100
    max_excess: NonNegative | None = None
    timeout_s: Positive | None = None
    overwrite: bool = False
    shard: Natural | None = None
    shards: Count | None = None
    launcher: Literal["local", "ray"] = "local"
    ray: RaySettings = field(default_factory=RaySettings)
    task: TaskSettings
    control: ControlSettings = field(default_factory=ControlSettings)
    latency: LatencySection = field(default_factory=lambda: {"kind": "none"})

    def __post_init__(self) -> None:
        beyond = [i for i in self.video_episodes if i >= self.episodes]
        if beyond:
            raise PcmError(
                f"video_episodes={list(self.video_episodes)}: {self.episodes} episodes are "
                f"numbered 0 to {self.episodes - 1}"
            )


@dataclass(frozen=True, kw_only=True)
class MergeSettings(Common):
    """Settings of ``pcm-eval merge``.

    Attributes:
        path: output_dir of the shards; gets eval.json
        partial: write what is there where shards are missing; eval.json then says so
        overwrite: replace an eval.json that is there
    """

    path: str
    partial: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class CompareSettings(Common):
    """Settings of ``pcm-eval compare``.

    Attributes:
        first: an output_dir of pcm-eval, or its eval.json
        second: another one, with the same seeds
        output: a JSON file for the differences; null writes none
        overwrite: replace a file that is there
    """

    first: str
    second: str
    output: str | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class LoopSettings(Solving):
    """Settings of ``pcm-bench loop``.

    Attributes:
        output_dir: gets loop.json and loop.png
        control_hz: ticks per second; null: control.control_hz, or else the policy's
        duration_s: how long it runs
        source: env (the task's environment), recorded (the policy's held-out observations)
        hog: busy processes beside the loop
        wait_share: share of a tick that control.mode=sync waits for its plan
        seed: of the first episode
        overwrite: replace a loop.json that is there
        control: the controller
    """

    groups: ClassVar[Mapping[str, str | None]] = {
        "task": "custom",
        "solver": "default",
        "control": "default",
        "runtime": "default",
    }

    output_dir: str
    control_hz: Positive | None = None
    duration_s: Positive = 60.0
    source: Literal["env", "recorded"] = "env"
    hog: Annotated[int, Range(least=0, most=1024)] = 0
    wait_share: Annotated[float, Range(above=0, most=1)] = 0.8
    seed: Seed = 100_000
    overwrite: bool = False
    task: TaskSettings
    control: ControlSettings = field(default_factory=ControlSettings)
    threads: Threads | None = 1


@dataclass(frozen=True, kw_only=True)
class ServeSettings(Solving):
    """Settings of ``pcm-serve``.

    Attributes:
        serve: where and to whom
    """

    groups: ClassVar[Mapping[str, str | None]] = {"solver": "default", "runtime": "default"}
    links: ClassVar[Mapping[str, str]] = {"serve.token": "oc.env:PCM_TOKEN,null"}

    serve: ServeOptions = field(default_factory=ServeOptions)
