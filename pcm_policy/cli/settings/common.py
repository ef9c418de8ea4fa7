"""Settings that several commands share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from pcm_policy.errors import PcmError
from pcm_policy.heads import HEADS
from pcm_policy.networks import NETWORKS
from pcm_policy.settings import (
    Count,
    Natural,
    NonNegative,
    Positive,
    Threads,
    options,
)
from pcm_policy.training.consistency import Consistency

Device = Literal["auto", "cpu", "cuda"]
Size = tuple[Count, Count]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes.

    Attributes:
        threads: CPU threads of torch; null leaves the choice to torch
        plugins: modules of yours to import first, as [my_module]; see docs/extend.md
    """

    groups: ClassVar[Mapping[str, str | None]] = {}
    """Groups of ready-made choices (folders of ``configs/``), and the one taken if none is."""
    links: ClassVar[Mapping[str, str]] = {}
    """Settings that are taken over from others where they are not given."""

    threads: Threads | None = None
    plugins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OnDevice(Common):
    """What every command that runs a policy takes.

    Attributes:
        device: where the policy runs
    """

    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """A task: what is observed and done, and the environment to try it in.

    Attributes:
        name: of the task, for messages and cards
        env_id: gymnasium id of its environment; module:id imports module first
        env_kwargs: what the environment is made with
        demonstrate: the same for pcm-data generate by a scripted expert, in place of env_kwargs'
        obs_fields: arrays of the demonstrations that make an observation, as [keypoint, state[0:2]]
        action_field: array of the demonstrations that holds the actions
        position_field: where the robot is, in the unit of the actions; for pcm-data validate
        position_dims: the same in the observation; what the robot holds before its first plan
        hold: what a robot that holds is sent; null in a dimension repeats the last command there
        obs_dim: numbers in obs_fields together, features of images come on top; null: as recorded
        action_dim: numbers in an action; null: as recorded
        horizon: predicted steps
        obs_steps: observed steps
        action_steps: steps executed of each prediction
        prefix_steps: known actions among so many first steps are shown to the network, trained with
        control_hz: rate of the actions; null: as recorded, or else 10
        max_excess: observations further outside the training range, in its widths, are refused
        still_range: an observation that moves less than this in training, in its own unit, counts
            as constant: noise of objects that lie still
        symmetry: module:function that maps rows to an equally valid copy; null for none
        cameras: height and width of every camera's images, as {image: [96, 96]}
        crop: cut out of the images at random places in training, in the middle later
        names: what the policy's entries are called in the demonstrations, where they differ
        variant: which one of a family of tasks
    """

    name: str | None = None
    env_id: str | None = None
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    demonstrate: dict[str, Any] = field(default_factory=dict)
    obs_fields: tuple[str, ...] | None = None
    action_field: str = "action"
    position_field: str | None = None
    position_dims: tuple[Natural, ...] | None = None
    hold: tuple[float | None, ...] | None = None
    obs_dim: Natural | None = None
    action_dim: Count | None = None
    horizon: Count = 16
    obs_steps: Count = 2
    action_steps: Count = 8
    prefix_steps: Natural = 0
    control_hz: Positive | None = None
    max_excess: NonNegative = 1.0
    still_range: NonNegative = 0.0
    symmetry: str | None = None
    cameras: dict[str, Size] = field(default_factory=dict)
    crop: Size | None = None
    names: dict[str, str] = field(default_factory=dict)
    variant: str | None = None

    def __post_init__(self) -> None:
        family, _, member = (self.name or "").rpartition("/")
        if self.variant is None and family and member == str(None):  # filled into the name
            raise PcmError(f"give task.variant=..., or task={family}/NAME")
        used = (self.name, self.env_id, *self.env_kwargs.values())
        if self.variant is not None and not any(self.variant in str(one) for one in used):
            raise PcmError(
                f"task.variant={self.variant}: this task has no variants; task=metaworld has"
            )

    def check_place(self) -> None:
        """Raise PcmError where the task has no environment."""
        if self.env_id is None:
            raise PcmError(
                "where is the policy to act? give a task with an environment, such as task=pusht, "
                "or task.env_id=..."
            )


@dataclass(frozen=True)
class NetworkSettings:
    """The denoising network.

    Attributes:
        name: which network
        options: its own settings, see its file in pcm_policy/networks
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked = options(NETWORKS.find(self.name), self.options, "network.options")
        object.__setattr__(self, "options", checked)


@dataclass(frozen=True)
class HeadSettings:
    """The head that is distilled.

    Attributes:
        name: which head
        options: its own settings, see its file in pcm_policy/heads
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kind = Consistency if self.name == "consistency" else HEADS.find(self.name)
        object.__setattr__(self, "options", options(kind, self.options, "head.options"))
