"""What a policy is made of: the settings that its ``config.json`` holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pcm_policy.errors import PcmError
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.denoise import PredictionType
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import NoiseSchedule


@dataclass(frozen=True)
class HeadConfig:
    """A PCM head and what it belongs to.

    Attributes:
        name: ``window``, ``lora`` or ``copy``.
        options: the head's own arguments.
        sampler: the sampler whose fixed point it was trained to reach.
        base: fingerprint of the base weights it was trained on.
        rounds: iterates it was trained to jump from; it knows nothing of later rounds.
    """

    name: str
    options: dict[str, Any]
    sampler: SamplerConfig
    base: str
    rounds: int = 3


@dataclass(frozen=True)
class PolicyConfig:
    """Everything about a policy but its weights.

    Attributes:
        obs_dim: ``Do``, numbers in one observation, features of its images among them.
        action_dim: ``Da``.
        horizon: ``T``, predicted steps.
        obs_steps: ``To``, observed steps.
        action_steps: ``Ta``, executed steps.
        network: name of the denoising network.
        network_options: its own arguments.
        schedule: the noise schedule it is trained with.
        prediction: what it outputs.
        clip: predicted clean chunks are clipped to this, in normalised units; None for no clipping.
        sampler: the sampler used when none is named.
        task: name of the task, for messages and cards.
        control_hz: rate at which actions are meant to be executed.
        obs_fields: dataset fields that make up an observation less its images, in order.
        action_field: dataset field of the action.
        prefix_steps: the condition shows the network the known actions among this many first
            steps; it was trained with such prefixes. 0: it knows of none.
        max_excess: observations further outside the training range than this many times that
            range are refused.
        head: the PCM head, if there is one.
        vision: how images become part of the observation; None for a policy without cameras.
        demonstrations: how its demonstrations were read: ``names`` of their arrays where these
            differ from the fields, and the ``symmetry`` of copies that it was trained on as well;
            empty where that is not known.
        inpainting: observations are no condition of the network, but entries of the trajectory
            beside the actions, see :func:`pcm_policy.sampling.denoise.inpainting`.
    """

    obs_dim: int
    action_dim: int
    horizon: int = 16
    obs_steps: int = 2
    action_steps: int = 8
    network: str = "mlp"
    network_options: dict[str, Any] = field(default_factory=dict)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    prediction: PredictionType = "epsilon"
    clip: float | None = 1.0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    task: str = ""
    control_hz: float = 10.0
    obs_fields: tuple[str, ...] = ()
    action_field: str = "action"
    prefix_steps: int = 0
    max_excess: float = 1.0
    head: HeadConfig | None = None
    vision: VisionConfig | None = None
    inpainting: bool = False
    demonstrations: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.obs_dim, self.action_dim, self.obs_steps, self.action_steps) < 1:
            raise PcmError("obs_dim, action_dim, obs_steps and action_steps must be at least 1")
        if self.obs_steps - 1 + self.action_steps > self.horizon:
            raise PcmError(
                f"horizon={self.horizon} is too short for obs_steps={self.obs_steps} and "
                f"action_steps={self.action_steps}: need obs_steps - 1 + action_steps"
            )
        if not 0 <= self.prefix_steps < self.horizon:
            raise PcmError(
                f"prefix_steps={self.prefix_steps}: use 0 to {self.horizon - 1}, below the horizon"
            )
        flow = self.schedule.name == "flow"
        fitting = ("flow_velocity", "sample") if flow else ("epsilon", "sample", "v_prediction")
        if self.prediction not in fitting or flow != self.sampler.name.startswith("flow"):
            raise PcmError(
                f"schedule={self.schedule.name} with prediction={self.prediction} and sampler="
                f"{self.sampler.name}: a flow takes flow_velocity or sample, and flow_euler or "
                "flow_2m; the other schedules take epsilon, sample or v_prediction"
            )

        if self.inpainting and self.prefix_steps:
            raise PcmError(
                "inpainting leaves no condition to show known actions in: prefix_steps=0"
            )
        if self.vision is not None and self.obs_dim != self.vision.obs_dim:
            raise PcmError(
                f"obs_dim={self.obs_dim}: state and features of vision.layout make "
                f"{self.vision.obs_dim} numbers"
            )

    @property
    def cond_dim(self) -> int:
        """``C``, width of the condition."""
        return self.obs_steps * self.obs_dim + self.prefix_steps * (self.action_dim + 1)

    @property
    def chunk_shape(self) -> tuple[int, int]:
        """What is solved for: ``(T, Da)``, or ``(T, Da + Do)`` with inpainting."""
        return self.horizon, self.action_dim + (self.obs_dim if self.inpainting else 0)

    @property
    def network_cond_dim(self) -> int:
        """Width of the condition that the network takes, 0 with inpainting; a head takes ``C``."""
        return 0 if self.inpainting else self.cond_dim

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PolicyConfig":
        """Rebuild from ``dataclasses.asdict``, as read from JSON."""
        data = dict(values)
        data["schedule"] = NoiseSchedule(**data["schedule"])
        data["sampler"] = SamplerConfig(**data["sampler"])
        data["obs_fields"] = tuple(data["obs_fields"])
        if data.get("head") is not None:
            head = dict(data["head"])
            data["head"] = HeadConfig(**head | {"sampler": SamplerConfig(**head["sampler"])})
        if data.get("vision") is not None:
            data["vision"] = VisionConfig.from_dict(data["vision"])
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)
