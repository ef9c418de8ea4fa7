"""What a PCM head is trained towards: observations solved by the base, pool by pool."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcm_policy.denoise import Denoiser, Prefix
from pcm_policy.noise import generator_noise
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.solvers import sequential
from pcm_policy.solvers.base import combine, forcing
from pcm_policy.training.cloning import Windows, batch_rows, random_prefixes, step_generator


@dataclass(frozen=True)
class Solved:
    """Observations whose chunks are known.

    Attributes:
        cond: ``(n, C)``.
        prefix: the actions that were known.
        forced: ``(N + 1, n, T, Da)``, ``F``.
        start: ``(N + 1, n, T, Da)``, the states that the iteration begins with.
        exact: ``(N + 1, n, T, Da)``, the fixed point.
    """

    cond: Tensor
    prefix: Prefix | None
    forced: Tensor
    start: Tensor
    exact: Tensor

    def pick(self, rows: Tensor) -> "Solved":
        """Return some of the rows."""
        prefix = self.prefix
        if prefix is not None:
            prefix = Prefix(prefix.values[rows], prefix.known[rows])
        fixed = (t[:, rows] for t in (self.forced, self.start, self.exact))
        return Solved(self.cond[rows], prefix, *fixed)


def denoiser_of(policy: DiffusionPolicy, cond: Tensor, prefix: Prefix | None) -> Denoiser:
    """Return the base's ``D`` on the sampler of the policy's head."""
    assert policy.config.head is not None
    return policy.denoiser(cond, policy.config.head.sampler, prefix)


class Targets:
    """Sequential solves of the base, computed for a whole pool of observations at a time.

    Args:
        policy: with a head, whose sampler is solved.
        train: training windows.
        seed: all randomness derives from it.
        pool: observations in a pool.
        warm: share of rows that start from a demonstrated chunk, its end held.
        prefix: share of rows that know first actions, up to ``config.prefix_steps`` or else ``Ta``.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        train: Windows,
        seed: int,
        *,
        pool: int,
        warm: float,
        prefix: float,
    ) -> None:
        self.policy, self.train, self.seed, self.pool = policy, train, seed, pool
        self.warm, self.prefix = warm, prefix
        self._solved: tuple[int, Solved] | None = None

    @torch.no_grad()
    def __call__(self, index: int) -> Solved:
        """Solve the pool ``index``, or return it if it is the last one that was."""
        if self._solved is None or self._solved[0] != index:
            self._solved = index, self._solve(index)
        return self._solved[1]

    def _solve(self, index: int) -> Solved:
        generator = step_generator(self.seed, 2**33 + index)
        rows = batch_rows(len(self.train.seen), self.pool, index, self.seed)
        rows = rows.to(self.train.seen.device)
        seen, chunk, config = self.train.seen[rows], self.train.chunk[rows], self.policy.config
        prefix = None
        if self.prefix > 0:
            steps = config.prefix_steps or config.action_steps
            known = random_prefixes(config, self.pool, generator, steps, self.prefix)
            prefix = Prefix(chunk, known.to(seen.device))
        cond = self.policy.join(seen, prefix)
        denoise = denoiser_of(self.policy, cond, prefix)
        sampler = denoise.sampler
        steps = sampler.steps if sampler.stochastic else 0
        shape = (config.horizon, config.action_dim)
        noise = generator_noise(generator, self.pool, shape, steps).to(seen.device, seen.dtype)
        exact = sequential(denoise, noise).trajectory
        forced = forcing(sampler, noise)
        guess = self._guesses(chunk, generator).expand(sampler.steps, *chunk.shape)
        start = forced + combine(sampler.M, guess)
        return Solved(cond, prefix, forced, start, exact)

    def _guesses(self, chunk: Tensor, generator: torch.Generator) -> Tensor:
        """Return first guesses ``(n, T, Da)``: zeros, or the demonstration with its end held."""
        count, horizon = chunk.shape[:2]
        draws = torch.rand(2, count, generator=generator).to(chunk)
        most = min(self.policy.config.action_steps, horizon - 1)
        held = 1 + (draws[1] * most).long()
        step = torch.arange(horizon, device=chunk.device)
        index = torch.minimum(step, (horizon - 1 - held)[:, None])
        guess = chunk.gather(1, index[..., None].expand_as(chunk))
        return torch.where((draws[0] < self.warm)[:, None, None], guess, 0.0)
