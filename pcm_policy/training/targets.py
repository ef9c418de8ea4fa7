"""Targets of PCM heads: observations that the base has solved, pool by pool."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcm_policy.runtime.inputs import Execute, eager
from pcm_policy.sampling.denoise import Prefix
from pcm_policy.sampling.noise import generator_noise
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.loop import first_iterate, rounds
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System, forcing
from pcm_policy.training.batches import Batches, Windows, random_prefixes, step_generator
from pcm_policy.training.kept import Kept
from pcm_policy.training.sharing import ALONE, Team
from pcm_policy.training.solving import Solving
from pcm_policy.training.steep import SteepRows
from pcm_policy.training.taught import Taught, denoiser_of


@dataclass(frozen=True)
class Solved:
    """Observations whose chunks are known; a chunk ``(T, Da)`` may have another shape.

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
        policy: with a head, whose sampler is solved; see
            :class:`~pcm_policy.training.taught.Taught`.
        train: training windows.
        seed: all randomness derives from it.
        pool: observations in a pool.
        warm: share of rows that start from a demonstrated chunk whose last steps repeat one action.
        prefix: share of rows that know first actions, up to ``config.prefix_steps`` or else ``Ta``.
        rounds: ``K``, iterates that are recorded; 0 for none.
        near: a cheaper sampler to solve instead, from the same noise, whose chunks are near the
            head's sampler's. ``exact`` then has its states, and no iterates are recorded.
        execute: what executes the solves.
        steep: chooses the observations of a pool; None: every epoch is a permutation of all.
        pools: how many different pools there are, after which they come again; None: no end.
        kept: where the solves of these are kept; None: nowhere.
        finish: called with the number of a new pool, the pool and the processes that share the
            work; its result is kept.
    """

    def __init__(
        self,
        policy: Taught,
        train: Windows,
        seed: int,
        *,
        pool: int,
        warm: float,
        prefix: float,
        rounds: int,
        near: SamplerConfig | None = None,
        execute: Execute = eager,
        steep: SteepRows | None = None,
        pools: int | None = None,
        kept: Kept | None = None,
        finish: Callable[[int, Solved, Team], Solved] | None = None,
    ) -> None:
        self.policy, self.train, self.seed, self.pool = policy, train, seed, pool
        self.warm, self.prefix, self.rounds = warm, prefix, rounds
        self.near, self.rows = near, Batches(len(train.seen), pool, seed)
        self.steep, self.pools, self.kept = steep, pools, kept
        self._solving, self._finish = Solving(policy, execute), finish
        self._kept: tuple[int, Solved] | None = None

    def to(self, device: torch.device) -> None:
        """Move the training windows."""
        self.train = self.train.to(device)

    @torch.no_grad()
    def __call__(self, index: int, team: Team = ALONE) -> Solved:
        """Solve and finish the pool ``index``, or return it if it is the last one that was.

        Args:
            index: of the pool.
            team: processes that solve a part of a new pool each; all of them must be here.
        """
        if self._kept is None or self._kept[0] != index:
            solved = self.solve(index, team)
            if self._finish is not None:
                solved = self._finish(index, solved, team)
            self._kept = index, solved
        return self._kept[1]

    @torch.no_grad()
    def solve(self, index: int, team: Team = ALONE) -> Solved:
        """Solve the pool ``index`` and record the base's iterates; see :meth:`__call__`."""
        index = index % self.pools if self.pools else index
        generator = step_generator(self.seed, 2**33 + index)
        rows = self.rows(index) if self.steep is None else self.steep(index, self.train.seen, team)
        rows = rows.to(self.train.seen.device)
        seen, chunk, config = self.train.seen[rows], self.train.chunk[rows], self.policy.config
        prefix = None
        if self.prefix > 0:
            steps = config.prefix_steps or config.action_steps
            known = random_prefixes(config, self.pool, generator, steps, self.prefix)
            prefix = Prefix(chunk, known.to(seen.device))
        cond = self.policy.join(seen, prefix)
        mine = team.rows(self.pool).to(seen.device)
        own = cond[mine], prefix and prefix.pick(mine)
        denoise = denoiser_of(self.policy, *own)
        sampler = denoise.sampler
        shape = config.chunk_shape
        noise = generator_noise(generator, self.pool, shape, sampler.noise_steps).to(
            chunk.device, chunk.dtype
        )
        wanted = self.near or self.policy.config.head.sampler
        solve = partial(self._solving, *own, noise.pick(mine), wanted)
        name = f"pool-{index:04d}-process-{team.rank}-of-{team.world}"
        found = solve() if self.kept is None else self.kept(name, solve)
        exact = team.whole(found.to(seen.device), self.pool, dim=1)
        forced = forcing(sampler, noise)
        whole = pad(chunk, (0, shape[-1] - config.action_dim))  # nothing is guessed of what is seen
        guess, cold = self._guesses(whole, generator)
        head, count = self.policy.head, sampler.steps
        assert head is not None
        nodes = head.nodes(sampler)[0]
        states = forced.new_zeros(0, count + 1, *whole.shape)
        bases = forced.new_zeros(0, len(forced[:-1][nodes]), *whole.shape)
        if self.rounds:
            s = System(denoise, noise.pick(mine), forced[:, mine], head)
            made = iterates(s, guess[mine], self.rounds, own=False)
            states, bases = (team.whole(part, self.pool, dim=2) for part in made)
        return Solved(cond, prefix, forced, exact, guess, cold, states, bases)

    def _guesses(self, chunk: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return ``(n, T, Da)`` guesses, zeros or demonstrations, and which rows are zeros."""
        if self.warm == 0:
            return torch.zeros_like(chunk), torch.ones_like(chunk.flatten(1)[:, 0]) > 0
        count, horizon = chunk.shape[:2]
        draws = torch.rand(2, count, generator=generator).to(chunk)
        most = min(self.policy.config.action_steps, horizon - 1)
        held = 1 + (draws[1] * most).long()
        step = torch.arange(horizon, device=chunk.device)
        index = torch.minimum(step, (horizon - 1 - held)[:, None])
        guess = chunk.gather(1, index[..., None].expand_as(chunk))
        cold = draws[0] >= self.warm
        return torch.where(cold[:, None, None], 0.0, guess), cold
