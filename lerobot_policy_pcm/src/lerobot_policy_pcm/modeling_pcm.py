"""A policy of pcm_policy behind LeRobot's interface."""

import logging
from collections import deque
from pathlib import Path
from typing import Any, Self

import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor, nn

from lerobot_policy_pcm.configuration_pcm import PCMConfig
from lerobot_policy_pcm.learning import Learner, Stats, new_policy
from lerobot_policy_pcm.ticks import Seen, left_over
from pcm_policy import DiffusionPolicy, PcmError, PolicyConfig
from pcm_policy.policy.config_file import FORMAT_VERSION
from pcm_policy.policy.inputs import check_noise, check_prefix
from pcm_policy.policy.observe import observe_tensors
from pcm_policy.sampling.noise import Noise


class PCMPolicy(PreTrainedPolicy):
    """Observations in, actions out, in raw units; solved as ``config`` says.

    The episode's first observation stands for those before it, as in LeRobot's own policies. Noise
    comes from torch's default generator, which ``lerobot-eval --seed`` seeds. Tensors stay on their
    device.

    Args:
        config: read from a folder that ``lerobot-pcm`` or ``lerobot-train`` wrote, or of a policy
            that is to be trained.
        dataset_stats: of the dataset that a new policy is trained on; others carry their own.
        dataset_meta: likewise, for its rate.
        more: what else LeRobot passes to every policy.

    Raises:
        PcmError: a config of another format, or without a policy and without a dataset; a dataset
            that it cannot be trained on; or a solver that the policy cannot run.
    """

    config_class = PCMConfig
    name = "pcm"

    def __init__(
        self,
        config: PCMConfig,
        dataset_stats: Stats | None = None,
        dataset_meta: Any = None,
        **more: Any,
    ) -> None:
        super().__init__(config)
        if not config.network and dataset_stats is None:
            raise PcmError(
                "--policy.type=pcm has no policy: write a folder with lerobot-pcm, or train one "
                "with lerobot-train"
            )
        if config.format_version != FORMAT_VERSION:
            raise PcmError(
                f"the policy has format version {config.format_version}, the pcm_policy that is "
                f"installed reads {FORMAT_VERSION}: write the folder again with its lerobot-pcm"
            )
        if config.network:
            self.pcm = DiffusionPolicy(PolicyConfig.from_dict(config.network))
        else:
            self.pcm = new_policy(config, dataset_stats or {}, getattr(dataset_meta, "fps", None))
        self.learner = Learner(self.pcm, config.ema) if config.learning else None
        self.solver = self.pcm.solver(config.solver_settings())
        self._cold = False
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, strict: bool = True, **options: Any
    ) -> Self:
        """Load a folder or a model of the hub; an entry that is missing is an error."""
        return super().from_pretrained(pretrained_name_or_path, strict=strict, **options)

    def reset(self) -> None:
        """Forget what was seen and the rest of the chunk.

        Before real-time chunking begins the first solve is made here: LeRobot never forgets the
        longest time that one took.
        """
        self._seen = Seen(self.config.n_obs_steps)
        self._left: deque[Tensor] = deque()
        self._last: Tensor | None = None
        if self._cold:
            self._cold = False
            self._warm_up()

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
        """Return ``(B, Da)``, the next action; a chunk is solved when the last one is used up.

        Args:
            batch: raw observations by name, ``(B, D)``; images ``(B, 3, H, W)`` in [0, 1].
            noise: ``(B, T, Da)`` initial noise of the chunk, or None to draw it.

        Raises:
            PcmError: a missing entry, or an observation that the policy refuses.
        """
        self._seen.add(self._frame(batch))
        if not self._left:
            chunk = self._chunk(noise)[:, : self.config.n_action_steps]
            self._left.extend(chunk.unbind(1))
        return self._left.popleft()

    def supports_rtc(self) -> bool:
        """Tell LeRobot that :meth:`predict_action_chunk` does real-time chunking."""
        return True

    def init_rtc_processor(self) -> None:
        """Note that real-time chunking was chosen: LeRobot calls this before :meth:`reset`."""
        self._cold = True

    @torch.no_grad()
    def predict_action_chunk(
        self,
        batch: dict[str, Tensor],
        noise: Tensor | None = None,
        *,
        inference_delay: int | None = None,
        prev_chunk_left_over: Tensor | None = None,
        execution_horizon: int | None = None,
    ) -> Tensor:
        """Take one observation and return the chunk that begins with its action.

        With ``inference_delay`` or ``prev_chunk_left_over`` this is real-time chunking (Black et
        al. 2025): what will be executed during the solve is known, and the rest is solved around
        it. The known actions come back bit by bit.

        Args:
            batch: as for :meth:`select_action`.
            noise: likewise.
            inference_delay: actions that will be executed before the chunk arrives.
            prev_chunk_left_over: ``(h, Da)`` or ``(B, h, Da)`` actions of the last chunk that are
                not executed yet, with zeros behind them, see
                :func:`~lerobot_policy_pcm.ticks.left_over`.
            execution_horizon: at most so many actions are taken as known; None for no such limit.

        Returns:
            ``(B, Ta, Da)``, in real-time chunking all ``(B, T - To + 1, Da)``.

        Raises:
            PcmError: as for :meth:`select_action`, or known actions of another shape.
        """
        frame = self._frame(batch)
        if inference_delay is None and prev_chunk_left_over is None:
            self._seen.add(frame)
            return self._chunk(noise)[:, : self.config.n_action_steps]
        known, passed = None, self.config.n_obs_steps
        if prev_chunk_left_over is not None:
            known, passed = self._decided(prev_chunk_left_over)
            known = known[:, : min(inference_delay or 0, execution_horizon or self.room, self.room)]
        if inference_delay is not None and inference_delay >= self.room:
            logging.warning(
                "a solve takes %d steps of the control loop and a chunk has %d: raise the horizon "
                "or lower the rate",
                inference_delay,
                self.room,
            )
        self._seen.add(frame, passed)
        self._last = self._chunk(noise, known)
        return self._last

    def _decided(self, left: Tensor) -> tuple[Tensor, int]:
        """Return the actions that are left, ``(B, m, Da)``, and ticks since their observation."""
        width = self.pcm.config.action_dim
        if left.ndim not in (2, 3) or left.shape[-1] != width:
            raise PcmError(
                f"prev_chunk_left_over has shape {tuple(left.shape)}: give (h, {width}), or a batch"
            )
        return left_over(left if left.ndim == 3 else left[None], self._last)

    @property
    def room(self) -> int:
        """Actions of a chunk from the newest observation's on, ``T - To + 1``."""
        return self.config.horizon - self.config.n_obs_steps + 1

    @property
    def seen(self) -> tuple[str, ...]:
        """LeRobot's names of what the policy sees."""
        return (*self.config.obs_entries, *self._cameras)

    @property
    def _cameras(self) -> tuple[str, ...]:
        vision = self.pcm.config.vision
        return () if vision is None else tuple(vision.cameras)

    def _frame(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        for name in self.seen:
            if name not in batch:
                raise PcmError(f"the observation lacks {name}: it has {', '.join(batch)}")
        return {name: batch[name] for name in self.seen}

    def _observed(self) -> Tensor:
        """Return what was seen as a solve takes it, ``(B, To, Do)``."""
        seen, config = self._seen.stacked(), self.pcm.config
        images = {name: _bytes(seen[name]) for name in self._cameras}
        some = next(iter(seen.values()))
        numbers = [seen[name].flatten(2) for name in self.config.obs_entries]
        given = torch.cat(numbers, 2) if numbers else some.new_zeros(*some.shape[:2], 0)
        width = config.obs_dim if config.vision is None else config.vision.state_dim
        if given.shape[2] != width:
            raise PcmError(f"the observation has {given.shape[2]} numbers, the policy sees {width}")
        for name, size in {} if config.vision is None else config.vision.cameras.items():
            if tuple(images[name].shape[2:]) != (*size, 3):
                raise PcmError(
                    f"{name} has shape {tuple(seen[name].shape[2:])}: the policy sees {(3, *size)}"
                )
        return observe_tensors(
            config, self.pcm.obs_normalizer, self.pcm.vision, given.float(), images
        )

    def _chunk(self, initial: Tensor | None, known: Tensor | None = None) -> Tensor:
        """Return the actions from the newest observation's on, ``(B, T - To + 1, Da)``."""
        obs = self._observed()
        noise = self.pcm.draw_noise(len(obs), self.solver.sampler, _default(self.pcm.device))
        noise = noise if initial is None else Noise(initial, noise.steps)
        check_noise(
            self.pcm.config, noise, len(obs), 0 if noise.steps is None else len(noise.steps)
        )
        prefix = None
        if known is not None and known.shape[1]:
            prefix = self.pcm.known_prefix(known)
            check_prefix(self.pcm.config, prefix, len(obs))
        found = self.pcm.solve(obs, self.solver, noise, prefix=prefix)
        assert found.chunk is not None
        chunk = found.chunk[:, self.config.n_obs_steps - 1 :].clone()
        if not bool(chunk.isfinite().all()):
            raise PcmError("the solve gave a non-finite action: check the weights, or the solver")
        if prefix is not None and known is not None:  # exactly: not as normalisation rounds them
            chunk[:, : known.shape[1]] = known.to(chunk)
        return chunk

    @torch.no_grad()
    def _warm_up(self) -> None:
        """Solve once without and once with known actions, from the middle of the range."""
        config = self.pcm.config
        if self.pcm.vision is not None and config.vision is not None:
            shapes = {
                n: (1, config.obs_steps, *size, 3) for n, size in config.vision.cameras.items()
            }
            images = {
                name: torch.zeros(shape, dtype=torch.uint8, device=self.pcm.device)
                for name, shape in shapes.items()
            }
            state = torch.zeros(1, config.obs_steps, config.vision.state_dim)
            self.pcm.vision(state.to(self.pcm.device), images)
        obs = torch.zeros(1, config.obs_steps, config.obs_dim, device=self.pcm.device)
        obs = self.pcm.obs_normalizer.unnormalize(obs)
        noise = self.pcm.draw_noise(1, self.solver.sampler)  # of the policy's own generator
        action = self.pcm.action_normalizer.unnormalize(obs.new_zeros(1, 1, config.action_dim))
        for prefix in (None, self.pcm.known_prefix(action)):
            self.pcm.solve(obs, self.solver, noise, prefix=prefix)

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any] | None]:
        """Return the denoising loss of a batch and nothing more for the log.

        Args:
            batch: raw windows of the dataset by name, ``(B, To, D)`` and ``action (B, T, Da)``.

        Raises:
            PcmError: the policy is not being trained, or an entry is missing.
        """
        if self.learner is None:
            raise PcmError("this folder holds a policy to run, without what training goes on from")
        frames = self._frame(batch)
        obs = torch.cat([frames[name].flatten(2) for name in self.config.obs_entries], 2)
        return self.learner.loss(self.pcm, obs.float(), batch[ACTION].float()), None

    def get_optim_params(self) -> list[nn.Parameter]:
        """Return the weights that the optimiser moves; a policy that ran so far gets them here.

        Raises:
            PcmError: it has a head, cameras or inpainting.
        """
        if self.learner is None:
            self.learner = Learner(self.pcm, self.config.ema)
            self.config.learning = True
        return list(self.learner.parameters())

    def update(self) -> None:
        """Average the weights: LeRobot calls this after every step of the optimiser."""
        if self.learner is not None:
            self.learner.average(self.pcm)


def _bytes(images: Tensor) -> Tensor:
    """Turn ``(B, To, 3, H, W)`` in [0, 1] into the bytes that it was made of, channels last."""
    return (images * 255).round().to(torch.uint8).movedim(2, -1)


def _default(device: torch.device) -> torch.Generator:
    """Return the generator from which LeRobot's own policies draw on a device."""
    if device.type != "cuda":
        return torch.default_generator
    return torch.cuda.default_generators[device.index or 0]
