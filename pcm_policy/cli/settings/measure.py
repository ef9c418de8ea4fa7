"""Settings of ``pcm-bench``, ``pcm-bench tune`` and ``pcm-bench certify``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pcm_policy.cli.settings.common import OnDevice, TaskSettings
from pcm_policy.cli.settings.evaluate import Solving
from pcm_policy.measure.targets import Target, target_of
from pcm_policy.runtime.config import Name, Precision, RuntimeConfig
from pcm_policy.settings import Count, Positive, Seed, Threads


@dataclass(frozen=True, kw_only=True)
class BenchSettings(OnDevice):
    """Settings of ``pcm-bench``.

    Attributes:
        policy: folder of a policy, or a released one
        output_dir: gets bench.json and bench.png
        observations: held-out observations over which errors and rounds are taken
        calls: timed calls per solver, batch 1
        error: error whose rounds are counted, and tolerance of the tolerance rows
        methods: rows of these methods beside the sequential ones, as [picard, pcm], or of your own,
            as [module:Name]; null: all
        lerobot: Python of an environment that has LeRobot: its own DDPM and DDIM as rows
        seed: of the noise
        runtime: how solves are executed
        overwrite: replace a bench.json that is there
    """

    groups: ClassVar[Mapping[str, str | None]] = {"runtime": "default"}

    policy: str = "released/pusht"
    output_dir: str
    observations: Count = 64
    calls: Count = 100
    error: Positive = 0.001
    methods: tuple[str, ...] | None = None
    lerobot: str | None = None
    seed: Seed = 0
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class TuneSettings(OnDevice):
    """Settings of ``pcm-bench tune``; give one of ``deadline_ms``, ``error``, ``score_within``.

    Attributes:
        policy: folder of a policy, or a released one
        output_dir: gets tune.json, solver/tuned.yaml and runtime/tuned.yaml
        deadline_ms: smallest error whose p95 is within this time ...
        error: ... or fastest whose mean RMSE to the sequential chunk is at most this ...
        score_within: ... or fastest whose score equals the sequential sampler's within this
        episodes: closed-loop episodes of every candidate looked at, for score_within
        seed: of the first one; published scores use seeds from 100000
        observations: held-out observations over which errors are taken
        search: few-step DDIM of so many steps at searched timesteps; []: at even ones only
        methods: solvers of your own to try beside the package's, as [module:Name]
        calls: timed calls of every candidate, batch 1
        modes: ways of execution to try; null: all that run here, but compile
        engine_threads: numbers of threads to try in each engine; []: torch's number, and one
        precisions: of the base network, to try
        overwrite: replace a tune.json that is there
    """

    groups: ClassVar[Mapping[str, str | None]] = {"task": "custom"}

    policy: str = "released/pusht"
    output_dir: str
    deadline_ms: Positive | None = None
    error: Positive | None = None
    score_within: Positive | None = None
    episodes: Count = 200
    seed: Seed = 200_000
    observations: Count = 64
    search: tuple[Count, ...] = (1, 2, 3, 4)
    methods: tuple[str, ...] = ()
    calls: Count = 50
    modes: tuple[Name, ...] | None = None
    engine_threads: tuple[Threads, ...] = ()
    precisions: tuple[Precision, ...] = ("float32",)
    overwrite: bool = False
    task: TaskSettings

    def __post_init__(self) -> None:
        _ = self.target  # which refuses none, several and what is not above zero

    @property
    def target(self) -> Target:
        """What is asked for."""
        return target_of(
            deadline_ms=self.deadline_ms, error=self.error, score_within=self.score_within
        )


@dataclass(frozen=True, kw_only=True)
class CertifySettings(Solving):
    """Settings of ``pcm-bench certify``; of the solver section only the sampler's are taken.

    Attributes:
        output_dir: gets certify.json, the score of every row; the policy's folder gets the factor
        demonstrations: held-out episodes of these are solved, split as for the policy's training;
            null: the held-out observations that the policy has
        rows: observations with noise; 2995 are the fewest for 99.9 % at 95 %
        coverage: share of new rows whose certificates are to hold
        confidence: of that share
        solvers: steps that are calibrated together, as [picard]; null: all that the policy has
        solves: all: every row by every step to every tolerance; one: by one of them, in turn
        batch: rows that are solved together
        seed: of the noise
        resume: continue a run that was cut off
        overwrite: replace a certify.json that is there
    """

    groups: ClassVar[Mapping[str, str | None]] = {"solver": "default", "runtime": "default"}

    output_dir: str
    demonstrations: str | None = None
    rows: Count = 3000
    coverage: Positive = 0.999
    confidence: Positive = 0.95
    solvers: tuple[str, ...] | None = None
    solves: Literal["all", "one"] = "all"
    batch: Count = 128
    seed: Seed = 10_000_000
    resume: bool = False
    overwrite: bool = False
