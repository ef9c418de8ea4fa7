"""Consistency distillation, the baseline: one network call from any noise level to the clean chunk.

Song et al. 2023 (algorithm 2) train a student to give the same chunk at two adjacent noise levels
of one path, the second reached by a step of the teacher; Prasad et al. 2024 (Consistency Policy) do
so for robot policies. The student is initialised from the base and has its shape. Its output is
read as ``v``, so that its chunk is ``alpha x - sigma F(x, t)``: the skip parametrisation of Karras
et al. 2022 for data of unit variance. At ``sigma = 0`` that is ``x``, the boundary condition. The
result is a policy folder without a head; ``solver=consistency solver.steps=k`` samples it.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, get_args

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.denoise import Network, PredictionType, Prefix, to_clean
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.settings import Range
from pcm_policy.solvers.sequential import sequential
from pcm_policy.training.batches import Batches, Windows, random_prefixes, step_generator
from pcm_policy.training.cloning import refuse_inpainting
from pcm_policy.training.headed import without_head
from pcm_policy.training.sharing import Share, Team

Loss = Literal["huber", "l2"]
HUBER = 0.00054
"""Song and Dhariwal 2024 use ``0.00054 sqrt(d)`` for distances summed over ``d`` entries."""
VALIDATED_STEPS = (1, 2, 3)


class Student(nn.Module):
    """The network that is trained, and its slow copy that gives the targets.

    Both belong to the state of a run, so that it resumes as it was.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(True)
        self.target = copy.deepcopy(network).requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Map as the network does."""
        result: Tensor = self.network(x, t, cond)
        return result

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Move the copy towards the network, keeping ``decay`` of it."""
        for slow, fast in zip(self.target.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)


def student_of(base: DiffusionPolicy, temperature: float = 1.0) -> DiffusionPolicy:
    """Return a policy with the base's weights and normalisers, to be made a consistency model.

    It samples at the given temperature.

    Raises:
        PcmError: the base is a flow.
    """
    own = SamplerConfig("consistency", 1, temperature=temperature)
    return without_head(base, prediction="v_prediction", sampler=own)


def clean_at(
    network: Network,
    x: Tensor,
    j: Tensor,
    cond: Tensor,
    sampler: AffineSampler,
    prediction: PredictionType,
    clip: float | None = None,
    prefix: Prefix | None = None,
) -> Tensor:
    """Predict clean chunks where every row is at a state of its own.

    Args:
        network: maps ``(x, t, cond)``.
        x: ``(B, T, Da)`` states.
        j: ``(B,)`` their indices, ``0..N-1``.
        cond: ``(B, C)``.
        sampler: supplies times, levels and the clipping rule.
        prediction: what the network outputs.
        clip: as for :class:`~pcm_policy.sampling.denoise.Denoiser`.
        prefix: actions that are known.

    Returns:
        ``(B, T, Da)``, what ``Denoiser`` gives row by row.
    """
    alpha, sigma, gain = (
        level[j].view(-1, 1, 1) for level in (sampler.alpha, sampler.sigma, sampler.clip_gain)
    )
    clean = to_clean(network(x, sampler.timesteps[j], cond), x, alpha, sigma, prediction)
    if clip is not None:
        clean = torch.lerp(clean, clean.clamp(-clip, clip), gain)
    return clean if prefix is None else prefix.apply(clean)


class Consistency:
    """Distance between the student's chunks at adjacent levels of the teacher's path.

    A demonstrated chunk is noised to level ``j`` of the sampler, at its temperature; the base's own
    step leads to level ``j + 1``; the slow copy's chunk there is the target. After the last step
    the target is the state itself. With the sampler that a PCM head is trained for, the student
    that has zero loss gives this sampler's chunk in one step.

    Args:
        base: the teacher; its head, if any, is not used.
        sampler: fields of ``SamplerConfig``; None values come from the base's own sampler.
        train: training windows.
        held_out: windows of other episodes, for the log; may be empty.
        batch: rows per step over all processes.
        seed: all randomness derives from it.
        loss: ``huber`` (pseudo-Huber, Song and Dhariwal 2024) or ``l2``.
        target_ema: what the slow copy keeps of itself at every step; 0 makes it the student.

    Raises:
        PcmError: an unknown loss, a decay outside [0, 1), or a sampler that is no DDIM without
            noise, or a base that sees its observations by inpainting.
    """

    def __init__(
        self,
        base: DiffusionPolicy,
        sampler: Mapping[str, Any],
        train: Windows,
        held_out: Windows,
        batch: int,
        seed: int,
        *,
        loss: Loss = "huber",
        target_ema: Annotated[float, Range(least=0, below=1)] = 0.95,
    ) -> None:
        refuse_inpainting(base)
        if base.config.schedule.is_flow:
            raise PcmError(
                "head=consistency is for policies that predict epsilon, sample or v_prediction, "
                "and this one is a flow: use head=window"
            )
        if loss not in get_args(Loss) or not 0 <= target_ema < 1:
            raise PcmError(
                f"head.options.loss={loss}, target_ema={target_ema}: use huber or l2, and a decay "
                "in [0, 1)"
            )
        flat = {k: v for k, v in sampler.items() if k != "name"} | {"sampler": sampler.get("name")}
        self.teacher = base.solver({"method": "sequential"} | flat).sampler
        path = base.sampler(self.teacher)
        if path.stochastic or not path.one_step:
            raise PcmError(
                f"head=consistency follows a path without noise, step by step, not "
                f"{self.teacher.name}: use sampler.name=ddim sampler.eta=0"
            )
        self.base, self.policy = base, student_of(base, self.teacher.temperature)
        self.student = Student(self.policy.network)
        self.module: nn.Module = self.student
        self.train, self.held_out = train, held_out
        self.rows, self.seed = Batches(len(train.seen), batch, seed), seed
        self.kind, self.target_ema = loss, target_ema
        base.requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the windows and the teacher."""
        self.train, self.held_out = self.train.to(device), self.held_out.to(device)
        self.base.to(device)
        self.policy.to(device)

    def adopt(self, average: nn.Module) -> DiffusionPolicy:
        """Return the policy with the averaged weights of a run."""
        assert isinstance(average, Student)
        self.policy.network.load_state_dict(average.network.state_dict())
        return self.policy

    def begin(self, step: int, team: Team) -> None:
        """Let the slow copy follow what the last step has learnt."""
        if step > 0:
            self.student.follow(self.target_ema)

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        config, device = self.base.config, self.train.seen.device
        generator = step_generator(self.seed, step)
        rows = self.rows(step)
        j = torch.randint(self.teacher.steps, rows.shape, generator=generator)
        noise = torch.randn(len(rows), *self.train.chunk.shape[1:], generator=generator)
        noise = self.teacher.temperature * noise
        known = random_prefixes(config, len(rows), generator, config.prefix_steps)
        rows, j, noise, known = (share(v).to(device) for v in (rows, j, noise, known))
        clean = self.train.chunk[rows]
        prefix = Prefix(clean, known)
        cond = self.base.join(self.train.seen[rows], prefix)
        sampler = self.base.sampler(self.teacher)
        x = sampler.alpha[j].view(-1, 1, 1) * clean + sampler.sigma[j].view(-1, 1, 1) * noise
        target = self._target(x, j, cond, prefix)
        found = clean_at(module, x, j, cond, sampler, self.policy.config.prediction)
        off = torch.where(known, 0.0, found - target).square().mean(dim=(1, 2))
        if self.kind == "l2":
            return off.mean()
        return ((off + HUBER**2).sqrt() - HUBER).mean()

    @torch.no_grad()
    def _target(self, x: Tensor, j: Tensor, cond: Tensor, prefix: Prefix) -> Tensor:
        """Return the slow copy's chunk one teacher step further, ``(B, T, Da)``."""
        config, sampler = self.base.config, self.base.sampler(self.teacher)
        given = cond, sampler, config.prediction, config.clip, prefix
        chunk = clean_at(self.base.network, x, j, *given)
        landed = sampler.decay[j].view(-1, 1, 1) * x + sampler.gain[j].view(-1, 1, 1) * chunk
        after = (j + 1).clamp(max=sampler.steps - 1)
        given = cond, sampler, self.policy.config.prediction, config.clip, prefix
        seen = clean_at(self.student.target, landed, after, *given)
        return torch.where((j + 1 == sampler.steps).view(-1, 1, 1), landed, seen)

    def spent(self) -> Mapping[str, float]:
        """Return nothing: all is in memory."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return nothing: all is a function of the step and of the module."""
        return {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back nothing."""

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return the held-out RMSE of 1, 2, 3 steps to the teacher's chunk, with fixed noise."""
        count = len(self.held_out.seen)
        if count == 0:
            return {}
        assert isinstance(module, Student)
        rows = torch.linspace(0, count - 1, min(count, 256)).long()
        seen, config = self.held_out.seen[rows], self.policy.config
        noise = generator_noise(
            step_generator(self.seed, 2**32),
            len(rows),
            (config.horizon, config.action_dim),
            max(VALIDATED_STEPS),
        ).to(seen.device, seen.dtype)
        cond = self.base.join(seen, None)
        exact = sequential(self.base.denoiser(cond, self.teacher), noise).sample
        result = {}
        for steps in VALIDATED_STEPS:
            denoise = self.policy.denoiser(cond, replace(config.sampler, steps=steps))
            found = sequential(denoise.with_network(module), noise).sample
            off = (found - exact).square().mean(dim=(1, 2)).sqrt().mean()
            result[f"val_rmse_{steps}"] = float(off)
        return result
