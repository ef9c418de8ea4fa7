"""PCM distillation: learn to jump from any Picard iterate to the fixed point.

So et al. 2025 record the base model's Picard trajectories and train the model to predict their
fixed point from iterate ``k``, weighted by how far that iterate is from it. Half of the rows here
follow the base iteration as recorded there; the other half follow the head's own iterates, which
are what it meets when it is used. Some rows start warm, as from the last chunk of a rollout, and
some know the first actions already, if the base was trained so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pcm_policy.checkpoint import fingerprint
from pcm_policy.denoise import Denoiser, Nodes, Prefix
from pcm_policy.heads.window import WindowHead
from pcm_policy.noise import generator_noise
from pcm_policy.policy import DiffusionPolicy, HeadConfig
from pcm_policy.solve import as_predictor
from pcm_policy.solvers import picard, sequential
from pcm_policy.solvers.base import combine, forcing
from pcm_policy.training.cloning import Windows, batch_rows, random_prefixes, step_generator
from pcm_policy.training.loop import Share


@dataclass(frozen=True)
class Solved:
    """Observations whose chunks are known.

    Attributes:
        cond: ``(n, C)``.
        prefix: the actions that were known, if the base was trained with any.
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


def with_head(
    base: DiffusionPolicy,
    head: Mapping[str, Any],
    sampler: Mapping[str, Any],
    seed: int,
    rounds: int = 3,
) -> DiffusionPolicy:
    """Return the policy with an untrained head, bound to its weights and to a sampler.

    Args:
        base: the trained policy; a head it has already is dropped.
        head: ``name`` and ``options`` of the new head.
        sampler: fields of ``SamplerConfig``; None values come from the policy's own sampler.
        seed: seed of the head's initial weights.
        rounds: iterates it will be trained on.

    Raises:
        PcmError: an unknown head, option or sampler setting.
    """
    flat = {k: v for k, v in sampler.items() if k != "name"} | {"sampler": sampler.get("name")}
    chosen = base.solver({"method": "sequential"} | flat).sampler
    config = replace(
        base.config,
        head=HeadConfig(
            head["name"], dict(head["options"]), chosen, fingerprint(base.network), rounds
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = DiffusionPolicy(config)
    policy.load_state_dict(
        {k: v for k, v in base.state_dict().items() if not k.startswith("head.")}, strict=False
    )
    return policy


class Distillation:
    """Weighted squared distance between the head's next iterate and the base fixed point.

    Sequential solves of the base are computed in pools and used several times; every step follows
    ``K`` iterates of both kinds, and takes one gradient over all of them. The weight of a row
    is one over its iterate's distance to the fixed point, the paper's ``1 / sqrt(Var)`` per row.

    Args:
        policy: with an untrained head; base weights stay frozen.
        train: training windows; only their conditions are used.
        held_out: windows of other episodes, for the log; may be empty.
        batch: observations per step over all processes; each is seen at as many iterates
            as the head's config says.
        seed: all randomness derives from it.
        own: share of rows that follow the head's own iterates.
        end_weight: weight of the last state beside the mean over the trajectory.
        pool: observations whose sequential solves are computed at once and kept.
        reuse: times that each of them is trained on before the next pool is solved.
        warm: share of rows that start from a demonstrated chunk, its end held, as from the chunk of
            an earlier observation; the others start cold.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        train: Windows,
        held_out: Windows,
        batch: int,
        seed: int,
        *,
        own: float = 0.5,
        end_weight: float = 1.0,
        pool: int = 2048,
        reuse: int = 8,
        warm: float = 0.25,
    ) -> None:
        assert policy.head is not None
        assert policy.config.head is not None
        self.module: nn.Module = policy.head
        self.policy, self.train, self.held_out = policy, train, held_out
        self.batch, self.seed, self.rounds = batch, seed, policy.config.head.rounds
        self.own, self.end_weight, self.pool, self.reuse = own, end_weight, pool, reuse
        self.warm = warm
        self._solved: tuple[int, Solved] | None = None
        policy.network.requires_grad_(False)

    def to(self, device: torch.device) -> None:
        """Move the windows and the base."""
        self.train, self.held_out = self.train.to(device), self.held_out.to(device)
        self.policy.to(device)

    def adopt(self, average: nn.Module) -> DiffusionPolicy:
        """Return the policy with the averaged weights of a run."""
        assert self.policy.head is not None
        self.policy.head.load_state_dict(average.state_dict())
        return self.policy

    def loss(self, module: nn.Module, step: int, share: Share) -> Tensor:
        """Return the loss on the batch of ``step``."""
        generator = step_generator(self.seed, step)
        index, turn = divmod(step, max(1, self.pool * self.reuse // self.batch))
        solved = self._targets(index)
        rows = share(batch_rows(len(solved.cond), self.batch, turn, self.seed + index))
        solved = solved.pick(rows.to(solved.cond.device))
        follow = share(torch.rand(self.batch, generator=generator) < self.own)
        states, bases = self._iterates(solved, follow.to(solved.exact.device))
        stacked = torch.cat(states, dim=1)
        copies = len(states)
        device = solved.exact.device
        k = torch.arange(copies, device=device).repeat_interleave(follow.shape[0])
        solved = solved.pick(torch.arange(follow.shape[0], device=device).repeat(copies))
        everything, target = self._denoiser(solved.cond, solved.prefix), solved.exact
        predictions = module(everything, stacked, k, 1.0, torch.cat(bases, dim=1))
        jumped = solved.forced + combine(everything.sampler.M, predictions)
        error = (jumped - target).square().mean(dim=(2, 3))
        distance = (stacked - target[:-1]).square().mean(dim=(0, 2, 3)).sqrt()
        weight = 1.0 / (distance + 0.02)
        return ((error.mean(dim=0) + self.end_weight * error[-1]) * weight).mean()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> Mapping[str, float]:
        """Return the held-out RMSE of the sample after 1, 2, ... rounds, with fixed noise."""
        count = len(self.held_out.seen)
        if count == 0:
            return {}
        rows = torch.linspace(0, count - 1, min(count, 256)).long()
        generator = step_generator(self.seed, 2**32)
        seen = self.held_out.seen[rows]
        denoise = self._denoiser(self.policy.join(seen, None), None)
        config = self.policy.config
        noise = generator_noise(
            generator, len(rows), (config.horizon, config.action_dim), denoise.sampler.steps
        ).to(seen.device, seen.dtype)
        exact = sequential(denoise, noise).sample
        result = {}
        for r in range(1, self.rounds + 1):
            found = picard(
                denoise, noise, rounds=r, head=as_predictor(module), strengths=(1.0,) * r
            )
            rmse = (found.sample - exact).square().mean(dim=(1, 2)).sqrt().mean()
            result[f"val_rmse_{r}"] = float(rmse)
        return result

    def _denoiser(self, cond: Tensor, prefix: Prefix | None) -> Denoiser:
        assert self.policy.config.head is not None
        return self.policy.denoiser(cond, self.policy.config.head.sampler, prefix)

    @torch.no_grad()
    def _targets(self, index: int) -> Solved:
        """Solve the pool ``index`` sequentially, or return it if it is the last one that was."""
        if self._solved is None or self._solved[0] != index:
            generator = step_generator(self.seed, 2**33 + index)
            rows = batch_rows(len(self.train.seen), self.pool, index, self.seed)
            rows = rows.to(self.train.seen.device)
            seen, chunk, config = self.train.seen[rows], self.train.chunk[rows], self.policy.config
            prefix = None
            if config.prefix_steps:
                known = random_prefixes(config, self.pool, generator).to(seen.device)
                prefix = Prefix(chunk, known)
            cond = self.policy.join(seen, prefix)
            denoise = self._denoiser(cond, prefix)
            sampler = denoise.sampler
            shape = (config.horizon, config.action_dim)
            steps = sampler.steps if sampler.stochastic else 0
            noise = generator_noise(generator, self.pool, shape, steps)
            noise = noise.to(seen.device, seen.dtype)
            exact = sequential(denoise, noise).trajectory
            forced = forcing(sampler, noise)
            guess = self._guesses(chunk, generator).expand(sampler.steps, *chunk.shape)
            start = forced + combine(sampler.M, guess)
            self._solved = index, Solved(cond, prefix, forced, start, exact)
        return self._solved[1]

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

    @torch.no_grad()
    def _iterates(self, solved: Solved, follow: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return ``K`` iterates ``(N, b, T, Da)`` and base predictions at the head's nodes."""
        denoise = self._denoiser(solved.cond, solved.prefix)
        nodes, between = self._nodes(denoise)
        states, bases = [solved.start[:-1]], []
        for k in range(self.rounds):
            base = denoise(states[k][nodes], nodes)
            bases.append(base)
            if k + 1 == self.rounds:
                break
            at = torch.full(follow.shape, k, device=follow.device)
            own = self.module(denoise, states[k], at, 1.0, base)
            spread = base if between is None else combine(between, base)
            mixed = torch.where(follow[:, None, None], own, spread)
            states.append((solved.forced + combine(denoise.sampler.M, mixed))[:-1])
        return states, bases

    def _nodes(self, denoise: Denoiser) -> tuple[Nodes, Tensor | None]:
        """Return the nodes that the head evaluates, and what spreads their values over all."""
        if isinstance(self.module, WindowHead):
            return self.module.nodes(denoise)
        return slice(0, denoise.sampler.steps), None
