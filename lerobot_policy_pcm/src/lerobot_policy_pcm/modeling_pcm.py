"""A policy of pcm_policy behind LeRobot's interface."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from numpy.typing import NDArray
from torch import Tensor

from lerobot_policy_pcm.configuration_pcm import TRAINING, PCMConfig
from pcm_policy import DiffusionPolicy, PcmError, PolicyConfig
from pcm_policy.history import History, RecedingHorizon
from pcm_policy.policy.folder import FORMAT_VERSION
from pcm_policy.policy.vision import STATE
from pcm_policy.sampling.noise import Noise


class PCMPolicy(PreTrainedPolicy):
    """Observations in, actions out, in raw units; solved as ``config`` says.

    The episode's first observation stands for those before it, as in LeRobot's own policies. Noise
    comes from torch's default generator, which ``lerobot-eval --seed`` seeds.

    Args:
        config: read from a folder that ``lerobot-pcm`` wrote.
        dataset: what LeRobot passes to every policy; the policy carries its own statistics.

    Raises:
        PcmError: a config without a policy or of another format, or a solver that the policy
            cannot run.
    """

    config_class = PCMConfig
    name = "pcm"

    def __init__(self, config: PCMConfig, **dataset: Any) -> None:
        super().__init__(config)
        if not config.network:
            raise PcmError("--policy.type=pcm has no policy: write a folder with lerobot-pcm")
        if config.format_version != FORMAT_VERSION:
            raise PcmError(
                f"the policy has format version {config.format_version}, the pcm_policy that is "
                f"installed reads {FORMAT_VERSION}: write the folder again with its lerobot-pcm"
            )
        self.pcm = DiffusionPolicy(PolicyConfig.from_dict(config.network))
        self.solver = self.pcm.solver(config.solver_settings())
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, strict: bool = True, **options: Any
    ) -> Self:
        """Load a folder or a model of the hub; an entry that is missing is an error."""
        return super().from_pretrained(pretrained_name_or_path, strict=strict, **options)

    def reset(self) -> None:
        """Forget the history and the rest of the chunk."""
        self._horizon = RecedingHorizon(self.config.n_obs_steps)

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Return ``(B, Da)``, the next action; a chunk is solved when the last one is used up.

        Args:
            batch: raw observations by name, ``(B, D)``; images ``(B, 3, H, W)`` in [0, 1].
            noise: ``(B, T, Da)`` initial noise of the chunk, or None to draw it.

        Raises:
            PcmError: a missing entry, or an observation that the policy refuses.
        """

        def plan(history: History) -> NDArray[np.float32]:
            return self._chunk(history, noise)

        return torch.from_numpy(self._horizon.act(self._frame(batch), plan))

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Take one observation and return the chunk to execute from it, ``(B, Ta, Da)``."""
        history = self._horizon.history
        history.add(self._frame(batch))
        return torch.from_numpy(self._chunk(history, noise)).transpose(0, 1)

    @property
    def seen(self) -> tuple[str, ...]:
        """LeRobot's names of what the policy sees."""
        return (*self.config.obs_entries, *self._cameras)

    @property
    def _cameras(self) -> tuple[str, ...]:
        vision = self.pcm.config.vision
        return () if vision is None else tuple(vision.cameras)

    def _frame(self, batch: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
        for name in self.seen:
            if name not in batch:
                raise PcmError(f"the observation lacks {name}: it has {', '.join(batch)}")
        return {name: batch[name].cpu().numpy() for name in self.seen}

    def _chunk(self, history: History, initial: Tensor | None) -> NDArray[np.float32]:
        """Return what to execute, ``(Ta, B, Da)``."""
        seen = history.stacked(axis=1)
        numbers = [seen[name] for name in self.config.obs_entries]
        state = np.concatenate(numbers, axis=-1) if numbers else None
        obs: Any = state
        if self._cameras:
            obs = {name: _bytes(torch.from_numpy(seen[name])).numpy() for name in self._cameras}
            obs |= {} if state is None else {STATE: state}
        batch = len(next(iter(seen.values())))
        noise = self.pcm.draw_noise(batch, self.solver.sampler, torch.default_generator)
        if initial is not None:
            noise = Noise(initial, noise.steps)
        found = self.pcm.predict(obs, solver=self.solver, noise=noise)
        first = self.config.n_obs_steps - 1
        steps = self.config.n_action_steps
        return found.chunk[:, first : first + steps].swapaxes(0, 1)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """Refuse: see :data:`~lerobot_policy_pcm.configuration_pcm.TRAINING`."""
        raise PcmError(TRAINING)

    def get_optim_params(self) -> dict[str, Any]:
        """Refuse: see :data:`~lerobot_policy_pcm.configuration_pcm.TRAINING`."""
        raise PcmError(TRAINING)


def _bytes(images: Tensor) -> Tensor:
    """Turn ``(B, To, 3, H, W)`` in [0, 1] into the bytes that it was made of, channels last."""
    return (images * 255).round().to(torch.uint8).movedim(2, -1)
