"""What a policy is made of: the settings that its ``config.json`` holds."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar, get_args

from pcm_policy.checks import MOST_STEPS, flag, number, one_of, text, whole
from pcm_policy.errors import PcmError
from pcm_policy.policy.vision import VisionConfig
from pcm_policy.sampling.denoise import PredictionType
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.sampling.schedules import MOST_TRAIN_STEPS, NoiseSchedule

T = TypeVar("T")
MOST_NUMBERS = 1_000_000  # in an observation or an action
MOST_SAMPLER_STEPS = 4096  # a sampler is a matrix of so many rows and columns
_MOST_OPTION = 10**9  # a width, a depth; how much is built, the weights say


@dataclass(frozen=True)
class HeadConfig:
    """A PCM head and what it belongs to.

    Attributes:
        name: ``window``, ``lora`` or ``copy``.
        options: the head's own arguments.
        sampler: the sampler whose fixed point it was trained to reach.
        base: fingerprint of the base weights it was trained on.
        rounds: number of iterates that it was trained to jump from; later rounds are untrained.

    Raises:
        PcmError: a value of another type or out of range.
    """

    name: str
    options: dict[str, Any]
    sampler: SamplerConfig
    base: str
    rounds: int = 3

    def __post_init__(self) -> None:
        text("head.name", self.name)
        _options("head.options", self.options)
        _sampler("head.sampler", self.sampler)
        text("head.base", self.base)
        whole("head.rounds", self.rounds, 1, MOST_STEPS)


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
        prefix_steps: number of first steps whose known actions the condition shows to the network,
            which was trained with such prefixes; 0 for none.
        max_excess: an observation is refused if it lies outside the training range by more than
            this many times that range.
        head: the PCM head, if there is one.
        vision: how images become part of the observation; None for a policy without cameras.
        demonstrations: how the demonstrations were read: ``names`` of arrays that differ from the
            fields, the ``symmetry`` of copies used in training, and the split (``val_fraction``,
            ``val_seed``); empty if unknown.
        inpainting: observations are entries of the trajectory beside the actions, not a condition
            of the network, see :func:`pcm_policy.sampling.denoise.inpainting`.

    Raises:
        PcmError: a value of another type or out of range, or settings that exclude each other.

    Example:
        >>> config = PolicyConfig(obs_dim=20, action_dim=2, horizon=16, obs_steps=2)
        >>> config.cond_dim, config.chunk_shape
        (40, (16, 2))
        >>> PolicyConfig.from_dict(config.to_dict()) == config
        True
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
        self._check_values()
        self._check_sampling()
        self._check_shapes()

    def _check_values(self) -> None:
        """Check every setting by itself."""
        for name in ("obs_dim", "action_dim"):
            whole(name, getattr(self, name), 1, MOST_NUMBERS)
        for name in ("horizon", "obs_steps", "action_steps"):
            whole(name, getattr(self, name), 1, MOST_STEPS)
        whole("prefix_steps", self.prefix_steps, 0, MOST_STEPS)
        for name in ("network", "task", "action_field"):
            text(name, getattr(self, name))
        _options("network_options", self.network_options)
        one_of("prediction", self.prediction, get_args(PredictionType))
        if self.clip is not None:
            number("clip", self.clip, above=0)
        number("control_hz", self.control_hz, above=0)
        number("max_excess", self.max_excess, 0)
        flag("inpainting", self.inpainting)
        fields = self.obs_fields
        if isinstance(fields, str) or not isinstance(fields, tuple | list):
            raise PcmError(f"obs_fields={fields!r}: use a list of names")
        object.__setattr__(self, "obs_fields", tuple(text("obs_fields", f) for f in fields))
        for name, kind in (("head", HeadConfig), ("vision", VisionConfig)):
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                raise PcmError(f"{name}: use a {kind.__name__}, or None")

    def _check_sampling(self) -> None:
        """Check schedule and samplers, and whether they go together."""
        if not isinstance(self.schedule, NoiseSchedule):
            raise PcmError("schedule: use a NoiseSchedule")
        steps = whole("schedule.train_steps", self.schedule.train_steps, 1, MOST_TRAIN_STEPS)
        _sampler("sampler", self.sampler)
        flow = self.schedule.name == "flow"
        fitting = ("flow_velocity", "sample") if flow else ("epsilon", "sample", "v_prediction")
        if self.prediction not in fitting or flow != self.sampler.name.startswith("flow"):
            raise PcmError(
                f"schedule={self.schedule.name} with prediction={self.prediction} and sampler="
                f"{self.sampler.name}: a flow takes flow_velocity or sample, and flow_euler, "
                "flow_2m or flow_adams; the other schedules take epsilon, sample or v_prediction"
            )
        for name, sampler in (
            ("sampler", self.sampler),
            *([("head.sampler", self.head.sampler)] if self.head else []),
        ):
            if not flow and sampler.steps > steps:
                raise PcmError(
                    f"{name}.steps={sampler.steps}: the schedule has train_steps={steps}, a "
                    "sampler takes at most as many"
                )

    def _check_shapes(self) -> None:
        """Check sizes against each other."""
        if self.obs_steps - 1 + self.action_steps > self.horizon:
            raise PcmError(
                f"horizon={self.horizon} is too short for obs_steps={self.obs_steps} and "
                f"action_steps={self.action_steps}: need obs_steps - 1 + action_steps"
            )
        if not 0 <= self.prefix_steps < self.horizon:
            raise PcmError(
                f"prefix_steps={self.prefix_steps}: use 0 to {self.horizon - 1}, below the horizon"
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
        """Rebuild from ``dataclasses.asdict``, as read from JSON.

        Raises:
            PcmError: a setting that is missing, unknown, of another type or out of range.
        """
        try:
            data = dict(values)
            data["schedule"] = _part(NoiseSchedule, "schedule", data["schedule"])
            data["sampler"] = _part(SamplerConfig, "sampler", data["sampler"])
            if data.get("head") is not None:
                head = dict(data["head"])
                head["sampler"] = _part(SamplerConfig, "head.sampler", head["sampler"])
                data["head"] = _part(HeadConfig, "head", head)
            if data.get("vision") is not None:
                data["vision"] = VisionConfig.from_dict(data["vision"])
            return cls(**data)
        except PcmError:
            raise
        except KeyError as error:
            raise PcmError(f"policy config: {error.args[0]} is missing") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise PcmError(f"policy config: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def _part(kind: type[T], name: str, values: Any) -> T:
    """Build a part of the config; a line that names it says what is wrong."""
    if not isinstance(values, Mapping):
        raise PcmError(f"{name}={str(values)[:80]!r}: use a dictionary of settings")
    try:
        return kind(**values)
    except TypeError as error:
        raise PcmError(f"{name}: {error}") from error
    except PcmError as error:
        raise PcmError(str(error) if name in str(error) else f"{name}: {error}") from error


def _sampler(name: str, value: Any) -> None:
    if not isinstance(value, SamplerConfig):
        raise PcmError(f"{name}: use a SamplerConfig")
    whole(f"{name}.steps", value.steps, 1, MOST_SAMPLER_STEPS)


def _options(name: str, value: Any) -> None:
    """Refuse options that no network or head has: other types, numbers beyond any size."""
    if not isinstance(value, Mapping):
        raise PcmError(f"{name}={str(value)[:80]!r}: use a dictionary of options")
    for key, option in value.items():
        if not isinstance(key, str):
            raise PcmError(f"{name}: {key!r} is no name of an option")
        for part in option if isinstance(option, list | tuple) else (option,):
            if part is not None and not isinstance(part, bool | str):
                number(f"{name}.{key}", part, -_MOST_OPTION, _MOST_OPTION)
