"""PCM distillation: learn to jump from any Picard iterate to the fixed point.

So et al. 2025 record the base model's Picard trajectories and train the model to predict their
fixed point from iterate ``k``, weighted by the distance of that iterate to it. Here rows follow the
head's own iterates, because a head in use meets those; a share of rows may follow recorded ones.
Some rows start warm, from an earlier chunk, and some have known first actions.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from pcm_policy.errors import PcmError
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.runtime.inputs import Execute, eager
from pcm_policy.sampling.noise import Noise, generator_noise
from pcm_policy.solvers.loop import rounds, start
from pcm_policy.solvers.pcm import PCM
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.stops import Rounds
from pcm_policy.solvers.system import Iterate, System, wide, within
from pcm_policy.training.batches import Batches, Windows, step_generator
from pcm_policy.training.guessing import Guessing, near_sampler
from pcm_policy.training.kept import Kept
from pcm_policy.training.sharing import Share, Team
from pcm_policy.training.steep import SteepRows
from pcm_policy.training.targets import Solved, Targets, iterates
from pcm_policy.training.taught import Taught, denoiser_of

CALIBRATED, SEARCHED = 128, 64
"""Training observations that the base is measured on for a head, and that steps are searched on."""
AT_ONCE = 500
"""Batch size when computing the head's iterates."""
FLOOR = 0.003
"""Smooths the square root near zero, ``sqrt(d^2 + FLOOR^2)``; in normalised action units."""
_POOL = "pool.number"
Teacher = TypeVar("Teacher", bound=Taught)


class Distillation(Generic[Teacher]):
    """Distance between the head's next iterate and the base fixed point.

    Sequential solves of the base are computed in pools and used several times. Every step takes one
    gradient over ``K`` iterates of every row, computed by the head as it was when the pool began.
    A row's loss is a function of ``e``, the squared distance of its next
    iterate to the fixed point, and of ``d``, the distance of the iterate that it starts from:

    ============  ===========================================================================
    weight        loss
    ============  ===========================================================================
    ``root``      ``sqrt(e + FLOOR^2)``
    ``row``       ``e / (d + 0.02)``, the paper's weight row by row
    ``variance``  ``e / sqrt(Var(k))``, the paper's; ``Var(k)`` is the mean of ``d^2`` of iterate
                  ``k`` over the pool
    ``none``      ``e``
    ============  ===========================================================================

    Args:
        policy: with an untrained head; base weights stay frozen. See
            :class:`~pcm_policy.training.taught.Taught`: it need not be a policy.
        train: training windows; only their conditions are used.
        held_out: windows of other episodes, for the log; may be empty.
        batch: observations per step over all processes, each at as many iterates as the head's
            config says.
        seed: all randomness derives from it.
        own: share of rows that follow the head's own iterates.
        weight: ``root``, ``row``, ``variance`` or ``none``.
        end_weight: weight of the last state beside the mean over the trajectory.
        pool: observations whose sequential solves are computed at once and kept.
        reuse: number of steps that use an observation before the next pool is solved.
        warm: share of rows that start from a demonstrated chunk whose last steps repeat one action,
            as a shifted earlier chunk does; the others start cold.
        prefix: share of rows whose first actions are known.
        guess_batch: observations per step for the head's first guess.
        guess_reuse: number of steps that use each of these observations.
        guess_steps: steps of the sampler that solves them, see
            :func:`~pcm_policy.training.guessing.near_sampler`. If none of so few steps comes near
            the head's sampler, the first guess learns from the pool of the rounds.
        steep: chooses the observations of a pool; None: every observation has its turn.
        pools: how many different pools there are, after which they come again. The first guess
            learns from their exact chunks then. None: new ones all the time.
        kept: where the solves of these are kept.
        execute: what executes the base's solves, a runtime of the policy for example.

    Raises:
        PcmError: an unknown weight.
    """

    def __init__(
        self,
        policy: Teacher,
        train: Windows,
        held_out: Windows,
        batch: int,
        seed: int,
        *,
        own: float = 1.0,
        weight: str = "root",
        end_weight: float = 1.0,
        pool: int = 2000,
        reuse: int = 16,
        warm: float = 0.1,
        prefix: float = 0.1,
        guess_batch: int = 512,
        guess_reuse: int = 8,
        guess_steps: int = 4,
        steep: SteepRows | None = None,
        pools: int | None = None,
        kept: Kept | None = None,
        execute: Execute = eager,
    ) -> None:
        assert policy.head is not None
        assert policy.config.head is not None
        self.module: nn.Module = policy.head
        self.policy, self.held_out = policy, held_out
        self.batch, self.seed, self.rounds = batch, seed, policy.config.head.rounds
        self.own, self.end_weight = own, end_weight
        self._steps = max(1, pool * reuse // batch)
        if weight not in ("root", "row", "variance", "none"):
            raise PcmError(f"distill.weight={weight}: use root, row, variance or none")
        self.weight = weight
        cond, noise = self._sample(train, CALIBRATED)
        policy.head.calibrate(denoiser_of(policy, cond, None), noise)
        make = partial(Targets, policy, train, pool=pool, warm=warm, prefix=prefix, execute=execute)
        kept_ones = partial(make, seed, steep=steep, pools=pools, kept=kept)
        recorded = 0 if own == 1 and weight != "variance" else self.rounds
        self.targets = kept_ones(rounds=recorded, finish=self._finish)
        self.guessing = None
        if policy.head.starts and isinstance(policy, DiffusionPolicy):
            targets, steps = self.targets, self._steps
            turn = max(1, pool * guess_reuse // guess_batch)
            if pools is not None:
                targets, steps = kept_ones(rounds=0), turn
            elif policy.head.guess_nodes is None:  # near samplers go another way to the end
                few = near_sampler(policy, *self._sample(train, SEARCHED), guess_steps)
                if few is not None:
                    targets, steps = make(seed + 1, rounds=0, near=few), turn
            self.guessing = Guessing(policy, targets, seed, batch=guess_batch, steps=steps)
        self._began: dict[str, Tensor] = {}
        policy.network.requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the windows and the base."""
        self.held_out = self.held_out.to(device)
        self.targets.to(device)
        if self.guessing is not None:
            self.guessing.targets.to(device)
        self.policy.to(device)

    def adopt(self, average: nn.Module) -> Teacher:
        """Return the policy with the averaged weights of a run."""
        assert self.policy.head is not None
        self.policy.head.load_state_dict(average.state_dict())
        return self.policy

    def begin(self, step: int, team: Team) -> None:
        """Solve the pool of a step, together with the other processes."""
        self.targets(step // self._steps, team)
        if self.guessing is not None:
            self.guessing.begin(step, team)

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        index, turn = divmod(step, self._steps)
        pool = self.targets(index)
        rows = share(Batches(len(pool.cond), self.batch, self.seed + index)(turn))
        some = pool.pick(rows.to(pool.cond.device))
        stacked, base = (t.transpose(0, 1).flatten(1, 2) for t in (some.states, some.bases))
        copies, device = len(some.states), some.exact.device
        k = torch.arange(copies, device=device).repeat_interleave(len(rows))
        solved = some.pick(torch.arange(len(rows), device=device).repeat(copies))
        everything, target = denoiser_of(self.policy, solved.cond, solved.prefix), solved.exact
        s = System(everything, Noise(solved.forced[0]), solved.forced)
        jumped = s.sweep(module(s, Iterate.trained(stacked, k), 1.0, base))
        losses = self._losses(pool.variance, jumped, stacked, target, k)
        loss = losses.mean()
        if self.guessing is not None:
            loss = loss + self.guessing.loss(module, step, share)
        return loss

    def _losses(
        self, variance: Tensor | None, found: Tensor, before: Tensor, exact: Tensor, k: Tensor
    ) -> Tensor:
        """Return the distance of every row's next iterate to the fixed point, as it is weighted."""
        error = (found - exact).square().mean(dim=within(exact, 2))
        total = error.mean(dim=0) + self.end_weight * error[-1]
        if self.weight == "root":
            return (total + FLOOR**2).sqrt()
        if self.weight == "row":
            distance = (before - exact)[:-1].square().mean(dim=(0, *within(exact, 2))).sqrt()
            weight = 1.0 / (distance + 0.02)
        elif variance is not None:
            weight = variance.rsqrt()[k]
        else:
            weight = torch.ones_like(total)
        return total * weight

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return the held-out RMSE of the sample after 1, 2, ... rounds, with fixed noise."""
        count = len(self.held_out.seen)
        if count == 0:
            return {}
        rows = torch.linspace(0, count - 1, min(count, 256)).long()
        generator = step_generator(self.seed, 2**32)
        seen = self.held_out.seen[rows]
        denoise = denoiser_of(self.policy, self.policy.join(seen, None), None)
        config = self.policy.config
        noise = generator_noise(generator, len(rows), config.chunk_shape, denoise.sampler.steps)
        noise = noise.to(self.held_out.chunk.device, self.held_out.chunk.dtype)
        exact = sequential(denoise, noise).sample
        head: Any = module
        s, x = start(denoise, noise, head=head)
        walk = rounds(s, x, PCM((1.0,) * self.rounds), Rounds(self.rounds))
        result = {}
        for _, x, _ in walk:
            rmse = (x.X[-1] - exact).square().mean(dim=within(exact, 1)).sqrt().mean()
            result[f"val_rmse_{x.k}"] = float(rmse)
        return result

    def spent(self) -> Mapping[str, float]:
        """Return nothing: all is in memory."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Return the head as it was when the last pool began, and the number of that pool.

        So a run that is resumed inside a pool follows the iterates that it followed before.
        """
        return self._began

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` returned."""
        self._began = dict(state)

    def _finish(self, index: int, solved: Solved, team: Team) -> Solved:
        """Return the pool ``index`` with the iterates that are trained on."""
        variance = None
        if self.weight == "variance":
            far = (solved.states - solved.exact)[:, :-1].square().flatten(1).mean(dim=1)
            variance = far.clamp(min=1e-8)
        generator = step_generator(self.seed, 2**35 + index)
        own = torch.rand(len(solved.cond), generator=generator) < self.own
        own = own.to(solved.cond.device)
        mine = team.rows(len(own)).to(own.device)
        with self._head_as_pool_began(index):
            parts = [
                self._iterates(solved.pick(rows), own[rows]) for rows in torch.split(mine, AT_ONCE)
            ]
        states, bases = (
            team.whole(torch.cat(part, dim=2), len(own), dim=2) for part in zip(*parts, strict=True)
        )
        return replace(solved, states=states, bases=bases, variance=variance)

    @contextmanager
    def _head_as_pool_began(self, index: int) -> Iterator[None]:
        """Give the head the weights that it had when a pool began: now, unless a run resumed."""
        now = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        if int(self._began.get(_POOL, torch.tensor(-1))) != index:
            self._began = now | {_POOL: torch.tensor(index)}
        began = {k: v for k, v in self._began.items() if k != _POOL}
        self.module.load_state_dict(began)
        try:
            yield
        finally:
            self.module.load_state_dict(now)

    def _iterates(self, solved: Solved, follow: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``K`` iterates ``(K, N + 1, b, T, Da)`` and base predictions at the head's nodes.

        They are the recorded ones but for the rows that follow the head's own.
        """
        rows = follow.nonzero()[:, 0]
        if len(rows) == 0:
            return solved.states, solved.bases
        some = solved.pick(rows)
        denoise = denoiser_of(self.policy, some.cond, some.prefix)
        s = System(denoise, Noise(some.forced[0]), some.forced, self.policy.head)
        guess = torch.where(wide(some.cold, some.guess), torch.nan, some.guess)
        states, bases = iterates(s, guess, self.rounds)
        if len(rows) == len(follow):
            return states, bases
        recorded = solved.states.index_copy(2, rows, states)
        return recorded, solved.bases.index_copy(2, rows, bases)

    def _sample(self, train: Windows, count: int) -> tuple[Tensor, Noise]:
        """Return conditions ``(n, C)`` and noise for some training observations."""
        rows = torch.linspace(0, len(train.seen) - 1, min(count, len(train.seen))).long()
        seen, config = train.seen[rows], self.policy.config
        assert config.head is not None
        generator = step_generator(self.seed, 2**34)
        steps = config.head.sampler.steps
        noise = generator_noise(generator, len(rows), config.chunk_shape, steps)
        return self.policy.join(seen, None), noise.to(train.chunk.device, train.chunk.dtype)
