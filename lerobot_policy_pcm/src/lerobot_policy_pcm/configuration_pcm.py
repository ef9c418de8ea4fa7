"""``config.json`` of a LeRobot policy folder that holds a policy of pcm_policy.

LeRobot looks for ``modeling_pcm`` and ``processor_pcm`` beside this module.
"""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.policies import PreTrainedConfig

from pcm_policy.errors import PcmError
from pcm_policy.policy.folder import FORMAT_VERSION

TRAINING = (
    "a pcm policy is not trained by LeRobot: train with lerobot-train --policy.type=diffusion or "
    "pcm-train, then pcm-import and pcm-distill"
)


@PreTrainedConfig.register_subclass("pcm")
@dataclass
class PCMConfig(PreTrainedConfig):
    """What LeRobot needs to know of the policy, and how it is solved.

    Attributes:
        n_obs_steps: ``To``, observed steps.
        horizon: ``T``, predicted steps.
        n_action_steps: ``Ta``, executed steps.
        obs_entries: LeRobot's names of the numbers that the policy sees, in its order; cameras are
            named in ``network``.
        format_version: of ``network``, as in pcm_policy's own folders.
        network: the policy's whole config, as :class:`pcm_policy.PolicyConfig` writes it.
        solver: method, such as ``pcm``, ``picard`` or ``sequential``; None for the policy's own.
        rounds: number of rounds; with a tolerance the largest number.
        tolerance: stop when the certified error is below this, in normalised action units.
        sampler: name of the sampler; None for the policy's own.
        steps: number of denoising steps; None for the policy's own.
    """

    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8
    obs_entries: list[str] = field(default_factory=list)
    format_version: int = FORMAT_VERSION
    network: dict[str, Any] = field(default_factory=dict)
    solver: str | None = None
    rounds: int | None = None
    tolerance: float | None = None
    sampler: str | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        room = self.horizon - self.n_obs_steps + 1
        if not 0 < self.n_action_steps <= room:
            raise PcmError(f"n_action_steps={self.n_action_steps}: use 1 to {room}")

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

    def get_optimizer_preset(self) -> Any:
        """Refuse: see :data:`TRAINING`."""
        raise PcmError(TRAINING)

    def get_scheduler_preset(self) -> Any:
        """Refuse: see :data:`TRAINING`."""
        raise PcmError(TRAINING)
