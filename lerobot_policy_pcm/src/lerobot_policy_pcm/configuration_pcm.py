"""``config.json`` of a LeRobot policy folder that holds a policy of pcm_policy.

LeRobot looks for ``modeling_pcm`` and ``processor_pcm`` beside this module.
"""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import DiffuserSchedulerConfig

from pcm_policy.errors import PcmError
from pcm_policy.policy.config_file import FORMAT_VERSION
from pcm_policy.training.config import TrainConfig

_USUAL = TrainConfig()


def _identity() -> dict[str, NormalizationMode]:
    return {kind.value: NormalizationMode.IDENTITY for kind in FeatureType}


@PreTrainedConfig.register_subclass("pcm")
@dataclass
class PCMConfig(PreTrainedConfig):
    """What LeRobot needs to know of the policy: what it is, how it is solved, how it is trained.

    Attributes:
        n_obs_steps: ``To``, observed steps.
        horizon: ``T``, predicted steps.
        n_action_steps: ``Ta``, executed steps.
        obs_entries: LeRobot's names of the numbers that the policy sees, in its order; cameras are
            named in ``network``. A new policy sees all states of the dataset unless they are named.
        normalization_mapping: LeRobot's processors normalise nothing: the policy does.
        format_version: of ``network``, as in pcm_policy's own folders.
        network: the policy's whole config, as :class:`pcm_policy.PolicyConfig` writes it; empty for
            a policy that is to be trained, see :mod:`lerobot_policy_pcm.learning`.
        learning: whether the weights file also holds the weights that the optimiser moves; those
            that run are their average.
        solver: method, such as ``pcm``, ``picard`` or ``sequential``; None for the policy's own.
        rounds: number of rounds; with a tolerance the largest number.
        tolerance: stop when the certified error is below this, in normalised action units.
        sampler: name of the sampler; None for the policy's own. Of a new policy the one it is to
            have.
        steps: number of denoising steps; likewise.
        denoiser: of a new policy, ``unet1d``, ``transformer`` or ``mlp``.
        denoiser_options: its own arguments, such as ``{"down_dims": [256, 512, 1024]}``.
        schedule: ``squaredcos_cap_v2``, ``linear`` or ``flow``.
        train_steps: noise levels that are trained with.
        prediction: what the network outputs; None for ``epsilon``, or ``flow_velocity`` of a flow.
        prefix_steps: first steps whose known actions the network sees, for real-time chunking.
        ema: decay of the average of the weights; in step ``i`` at most ``(1 + i) / (10 + i)``.
        optimizer_lr: peak learning rate of AdamW.
        optimizer_betas: AdamW's.
        optimizer_weight_decay: AdamW's.
        optimizer_grad_clip_norm: largest gradient norm.
        scheduler_warmup_steps: steps of linear warm-up before the cosine decay to zero.
    """

    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8
    obs_entries: list[str] = field(default_factory=list)
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=_identity)
    format_version: int = FORMAT_VERSION
    network: dict[str, Any] = field(default_factory=dict)
    learning: bool = False
    solver: str | None = None
    rounds: int | None = None
    tolerance: float | None = None
    sampler: str | None = None
    steps: int | None = None
    denoiser: str = "unet1d"
    denoiser_options: dict[str, Any] = field(default_factory=dict)
    schedule: str = "squaredcos_cap_v2"
    train_steps: int = 100
    prediction: str | None = None
    prefix_steps: int = 0
    ema: float = _USUAL.ema
    optimizer_lr: float = 1e-4
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_weight_decay: float = _USUAL.weight_decay
    optimizer_grad_clip_norm: float = 1.0
    scheduler_warmup_steps: int = _USUAL.warmup

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.horizon - self.n_obs_steps + 1
        if not 0 < self.n_action_steps <= room:
            raise PcmError(f"n_action_steps={self.n_action_steps}: use 1 to {room}")
        if any(mode != NormalizationMode.IDENTITY for mode in self.normalization_mapping.values()):
            raise PcmError("normalization_mapping: leave it out, a pcm policy normalises by itself")

    def solver_settings(self) -> dict[str, Any]:
        """Return the settings as :meth:`pcm_policy.DiffusionPolicy.solver` takes them."""
        names = ("rounds", "tolerance", "sampler", "steps")
        return {"method": self.solver} | {name: getattr(self, name) for name in names}

    def validate_features(self) -> None:
        """Do nothing: widths are checked against every observation."""

    @property
    def observation_delta_indices(self) -> list[int]:
        """Observed steps, relative to the newest."""
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Predicted steps, relative to the newest observation."""
        return list(range(1 - self.n_obs_steps, 1 - self.n_obs_steps + self.horizon))

    @property
    def reward_delta_indices(self) -> None:
        """No rewards are used."""
        return

    @property
    def drop_n_last_frames(self) -> int:
        """Frames at the end of an episode from which no window starts: as in ``pcm-train``.

        A chunk may reach ``Ta - 1`` steps past the episode, whose last action stands there.
        """
        return max(0, self.horizon - self.n_action_steps - self.n_obs_steps + 1)

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return AdamW."""
        return AdamWConfig(
            lr=self.optimizer_lr,
            betas=self.optimizer_betas,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.optimizer_grad_clip_norm,
        )

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """Return linear warm-up and cosine decay; diffusers makes it."""
        return DiffuserSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)
