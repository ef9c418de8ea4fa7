"""Targets of PCM heads: observations that the base has solved, pool by pool."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.denoise import Denoiser, Prefix
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.loop import first_iterate, rounds
from pcm_policy.solvers.sequential import sequential
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System, forcing
from pcm_policy.training.batches import Batches, Windows, random_prefixes, step_generator


@dataclass(frozen=True)
class Solved:
    """Observations whose chunks are known.

    Attributes:
        cond: ``(n, C)``.
        prefix: the actions that were known.
        forced: ``(N + 1, n, T, Da)``, ``F``.
        exact: ``(N + 1, n, T, Da)``, the fixed point.
        guess: ``(n, T, Da)``, the chunk that a row starts from; zeros if it starts cold.
        cold: ``(n,)`` bool, rows that start cold.
        states: ``(K, N + 1, n, T, Da)``, iterates of the base, in order.
        bases: ``(K, m, n, T, Da)``, the base's predictions at the head's ``m`` nodes of each.
        variance: ``(K,)``, ``Var(k)``: mean squared distance of iterate ``k`` to the fixed point
            over the whole pool; None unless the loss needs it.
    """

    cond: Tensor
    prefix: Prefix | None
    forced: Tensor
    exact: Tensor
    guess: Tensor
    cold: Tensor
    states: Tensor
    bases: Tensor
    variance: Tensor | None = None

    def pick(self, rows: Tensor) -> "Solved":
        """Return some of the rows."""
        return replace(
            self,
            cond=self.cond[rows],
            prefix=self.prefix and self.prefix.pick(rows),
            forced=self.forced[:, rows],
            exact=self.exact[:, rows],
            guess=self.guess[rows],
            cold=self.cold[rows],
            states=self.states[:, :, rows],
            bases=self.bases[:, :, rows],
        )


def denoiser_of(policy: DiffusionPolicy, cond: Tensor, prefix: Prefix | None) -> Denoiser:
    """Return the base's ``D`` on the sampler of the policy's head."""
    assert policy.config.head is not None
    return policy.denoiser(cond, policy.config.head.sampler, prefix)


@dataclass(frozen=True, kw_only=True)
class Evaluated(Round):
    """A round that stores the base's predictions.

    Attributes:
        base: ``(m, B, T, Da)``, ``D(X)`` at the head's ``m`` nodes.
    """

    base: Tensor


@dataclass(frozen=True)
class HeadNodes(Step):
    """A step that evaluates the base at the head's nodes and stores the predictions.

    Attributes:
        own: whether the rounds use the head; otherwise they are the base's.
    """

    own: bool = True

    def ready(self, s: System, stop: Stop) -> System:
        """Encode nothing ahead: pools are large, and every iterate is evaluated once."""
        return s

    def step(self, s: System, x: Iterate, memory: None) -> tuple[Evaluated, None]:
        """Make one round."""
        head = s.needed_head()
        nodes = head.nodes(s.denoise.sampler)[0]
        base = s.denoise(x.X[nodes], nodes)
        P = head(s, x, 1.0, base) if self.own else head.base_predictions(s, x, base)
        return Evaluated(**vars(x.head_round(s, P)), base=base), None


def iterates(
    s: System, guess: Tensor | None, count: int, own: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the first iterates of a head, or of the base under it.

    Args:
        s: the system, with the head.
        guess: where they start, as for a solve.
        count: ``K``.
        own: the head's; else the base's.

    Returns:
        ``(K, N + 1, B, T, Da)`` states, and ``(K, m, B, T, Da)`` what the base predicts at the
        head's ``m`` nodes.
    """
    walk = rounds(s, first_iterate(s, guess), HeadNodes(own), Rounds(count))
    found = [(r.before.X, r.base) for r, _, _ in walk if isinstance(r, Evaluated)]
    states, bases = zip(*found, strict=True)
    return torch.stack(states), torch.stack(bases)


class Targets:
    """Sequential solves and iterates of the base, for a pool of observations at a time.

    Args:
        policy: with a head, whose sampler is solved.
        train: training windows.
        seed: all randomness derives from it.
        pool: observations in a pool.
        warm: share of rows that start from a demonstrated chunk whose last steps repeat one action.
        prefix: share of rows that know first actions, up to ``config.prefix_steps`` or else ``Ta``.
        rounds: ``K``, iterates that are recorded; 0 for none.
        near: a cheaper sampler to solve instead, from the same noise, whose chunks are near the
            head's sampler's. ``exact`` then has its states, and no iterates are recorded.
        finish: called with a new pool and its number; its result is kept.
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
        rounds: int,
        near: SamplerConfig | None = None,
        finish: Callable[[int, Solved], Solved] | None = None,
    ) -> None:
        self.policy, self.train, self.seed, self.pool = policy, train, seed, pool
        self.warm, self.prefix, self.rounds = warm, prefix, rounds
        self.near, self.rows = near, Batches(len(train.seen), pool, seed)
        self._finish = finish
        self._kept: tuple[int, Solved] | None = None

    def to(self, device: torch.device) -> None:
        """Move the training windows."""
        self.train = self.train.to(device)

    @torch.no_grad()
    def __call__(self, index: int) -> Solved:
        """Solve and finish the pool ``index``, or return it if it is the last one that was."""
        if self._kept is None or self._kept[0] != index:
            solved = self.solve(index)
            self._kept = index, solved if self._finish is None else self._finish(index, solved)
        return self._kept[1]

    @torch.no_grad()
    def solve(self, index: int) -> Solved:
        """Solve the pool ``index`` and record the base's iterates."""
        generator = step_generator(self.seed, 2**33 + index)
        rows = self.rows(index)
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
        shape = config.chunk_shape
        noise = generator_noise(generator, self.pool, shape, sampler.noise_steps).to(
            seen.device, seen.dtype
        )
        solver = denoise
        if self.near is not None:
            solver = self.policy.denoiser(cond, self.near, prefix)
        exact = sequential(solver, noise).trajectory
        forced = forcing(sampler, noise)
        whole = pad(chunk, (0, shape[1] - config.action_dim))  # nothing is guessed of what is seen
        guess, cold = self._guesses(whole, generator)
        head, count = self.policy.head, sampler.steps
        assert head is not None
        nodes = head.nodes(sampler)[0]
        states = forced.new_zeros(0, count + 1, *whole.shape)
        bases = forced.new_zeros(0, len(forced[:-1][nodes]), *whole.shape)
        if self.rounds:
            s = System(denoise, noise, forced, head)
            states, bases = iterates(s, guess, self.rounds, own=False)
        return Solved(cond, prefix, forced, exact, guess, cold, states, bases)

    def _guesses(self, chunk: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``(n, T, Da)`` guesses, zeros or demonstrations, and which rows are zeros."""
        count, horizon = chunk.shape[:2]
        draws = torch.rand(2, count, generator=generator).to(chunk)
        most = min(self.policy.config.action_steps, horizon - 1)
        held = 1 + (draws[1] * most).long()
        step = torch.arange(horizon, device=chunk.device)
        index = torch.minimum(step, (horizon - 1 - held)[:, None])
        guess = chunk.gather(1, index[..., None].expand_as(chunk))
        cold = draws[0] >= self.warm
        return torch.where(cold[:, None, None], 0.0, guess), cold
