"""Settings of ``pcm-train`` and ``pcm-distill``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pcm_policy.cli.settings.common import (
    HeadSettings,
    NetworkSettings,
    OnDevice,
    Size,
    TaskSettings,
)
from pcm_policy.errors import PcmError
from pcm_policy.policy.normalize import NormalizerMode
from pcm_policy.runtime.config import RuntimeConfig
from pcm_policy.sampling.denoise import PredictionType
from pcm_policy.sampling.samplers import SAMPLERS, SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule, Spacing
from pcm_policy.settings import Count, Natural, NonNegative, Positive, Share
from pcm_policy.training.config import TrainConfig
from pcm_policy.training.dataset import DatasetConfig
from pcm_policy.training.denoising import Times

Weights = Literal["float32", "float16"]
Precision = Literal["no", "fp16", "bf16"]


@dataclass(frozen=True)
class VisionSettings:
    """How images become features, in tasks with cameras.

    Attributes:
        crop: cut out at random places in training, in the middle later; null: never
        resize: what images are brought to first; null: as they are
        backbone: its weights are trained from scratch
        norm: of the backbone; batch goes with init= of an imported policy alone
        keypoints: of the spatial softmax; 0: means
        features: of a layer after them; 0: none
        shared: one encoder for all cameras
    """

    crop: Size | None = None
    resize: Size | None = None
    backbone: Literal["resnet18", "resnet34"] = "resnet18"
    norm: Literal["group", "batch"] = "group"
    keypoints: Natural = 32
    features: Natural = 64
    shared: bool = False


@dataclass(frozen=True)
class PolicySettings:
    """What the network is trained to predict, and how it is used.

    Attributes:
        vision: of tasks with cameras
        prediction: flow_velocity goes with schedule.name=flow and sampler.name=flow_euler
        normalizer: how observations and actions are scaled
        max_excess: observations further outside the training range, in its widths, are refused
        still_range: an observation that moves less than this, in its own unit, counts as constant
        clip: clip predicted chunks to [-clip, clip], normalised; auto: the largest action; null:
            never
        schedule: the noise that is trained with
        sampler: used where no solver is named
    """

    vision: VisionSettings = field(default_factory=VisionSettings)
    prediction: PredictionType = "epsilon"
    normalizer: NormalizerMode = "minmax"
    max_excess: NonNegative = 1.0
    still_range: NonNegative = 0.0
    clip: Positive | Literal["auto"] | None = "auto"
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@dataclass(frozen=True, kw_only=True)
class Training(OnDevice):
    """What training and distillation share.

    Attributes:
        output_dir: gets policy/, metrics.jsonl, checkpoints/
        resume: continue a run that was cut off
        dataset: the demonstrations
        weights: float16: round the trained weights to 16 bits; a file of half the size
        precision: mixed precision, fp16 on a GPU; null: as the launcher says, else no
    """

    output_dir: str
    resume: bool = False
    dataset: DatasetConfig
    weights: Weights = "float32"
    precision: Precision | None = None


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Training):
    """Settings of ``pcm-train``.

    Attributes:
        init: folder of a policy whose weights and normalisers to start from
        fsdp: every process keeps a share of weights, moments and average (FSDP2), where they are
            too large for one card
        noises: noise levels that a step trains every window at
        times: how these levels are drawn; high_noise: most of them near pure noise, for sampling in
            one step
    """

    groups: ClassVar[Mapping[str, str | None]] = {"task": "custom", "network": "mlp"}
    links: ClassVar[Mapping[str, str]] = {
        "policy.max_excess": "task.max_excess",
        "policy.still_range": "task.still_range",
        "policy.vision.crop": "task.crop",
    }

    init: str | None = None
    fsdp: bool = False
    noises: Count = 1
    times: Times = "uniform"
    task: TaskSettings
    network: NetworkSettings
    policy: PolicySettings = field(default_factory=PolicySettings)
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class SamplerChoice:
    """The sampler whose fixed point the head learns; null: the policy's own.

    Attributes:
        name: which sampler, one of one's own too
        steps: number of denoising steps
        spacing: which training timesteps are visited
        eta: DDIM's noise
        follows: of flow_adams, the Euler steps whose chunk is wanted; 0: the flow's own end
        temperature: all drawn noise is multiplied by this
    """

    name: str | None = None
    steps: Count | None = None
    spacing: Spacing | None = None
    eta: Share | None = None
    follows: Natural | None = None
    temperature: Share | None = None

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in SAMPLERS:
            raise PcmError(f"sampler.name={self.name}: use one of {', '.join(SAMPLERS)}")


@dataclass(frozen=True)
class DistillOptions:
    """How a head is trained.

    Attributes:
        rounds: iterates K that the head learns to jump from
        own: share of rows that follow the head's own iterates
        weight: of an iterate's squared distance: root (its root), row (over that before), variance
            (the paper's), none
        end_weight: weight of the last state beside the mean over the trajectory
        pool: observations whose targets and iterates are computed at once
        pools: how many different pools there are, kept in output_dir/solved; afterwards they come
            again, and the first guess learns from their exact chunks; null: new ones all the time
        candidates: observations looked at for each of half a pool; taken are those where the first
            guess of init=... changes most with the observation; 1: every one has its turn
        reuse: times each of them is trained on before the next pool
        warm: share of rows that start from an earlier chunk rather than cold
        guess_batch: observations of a step for the head's first guess
        guess_reuse: times each of them is trained on
        guess_steps: of the sampler that solves them; where none of so few ends near the base's
            chunk, the pool above serves
        prefix: share of rows whose first actions are known already
    """

    rounds: Count = 2
    own: Share = 1.0
    weight: Literal["root", "row", "variance", "none"] = "root"
    end_weight: NonNegative = 1.0
    pool: Count = 2000
    pools: Count | None = None
    candidates: Count = 1
    reuse: Count = 16
    warm: Share = 0.1
    guess_batch: Count = 512
    guess_reuse: Count = 8
    guess_steps: Count = 4
    prefix: Share = 0.1


@dataclass(frozen=True, kw_only=True)
class DistillSettings(Training):
    """Settings of ``pcm-distill``.

    Attributes:
        policy: folder of the base policy
        init: folder of a policy of the same base whose head's weights to start from, where they fit
        runtime: how the base's chunks are solved; runtime.mode=auto takes the fastest engine
    """

    groups: ClassVar[Mapping[str, str | None]] = {
        "task": "custom",
        "head": "window",
        "runtime": "default",
    }

    policy: str
    task: TaskSettings
    head: HeadSettings
    init: str | None = None
    sampler: SamplerChoice = field(default_factory=SamplerChoice)
    distill: DistillOptions = field(default_factory=DistillOptions)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=4000,
            lr=0.005,
            warmup=200,
            weight_decay=0.0,
            ema=0.999,
            log_every=50,
            save_every=500,
        )
    )

    def __post_init__(self) -> None:
        if self.distill.candidates > 1 and self.init is None:
            raise PcmError(
                f"distill.candidates={self.distill.candidates}: give init=EARLIER/policy as well; "
                "the first guess of its head tells where chunks change"
            )
