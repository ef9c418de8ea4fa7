"""STEP (2602.08245): two steps of the base from a predicted chunk in place of noise.

A small network predicts the chunk, the prediction is noised to a level between data and noise, and
the base denoises it in one or two steps. The paper's predictor sees the observation and the actions
executed before. Here it is the first guess of the policy's PCM head, which sees observation and
noise and was trained for the same base; the paper's perturbation against a robot that stands still,
extra noise where actions hardly change, is left out. Levels, noise and temperature are searched, as
those of few-step samplers are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.peers.built import Built
from pcm_policy.measure.exactness import solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.sampling.ddim import ddim_steps
from pcm_policy.sampling.search import Schedule, search
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System

SHARES = (0.0, 0.1, 0.6)
"""Temperatures that are tried."""
ETAS = (0.0, 1.0)


def steps_at(sampler: AffineSampler, nodes: Sequence[int], eta: float) -> AffineSampler:
    """Return DDIM's steps between some levels of a sampler, the last one to no noise.

    Args:
        sampler: whose levels.
        nodes: indices of its levels, ascending: from noise to data.
        eta: DDIM's noise.
    """
    index = torch.tensor(list(nodes), device=sampler.alpha.device)
    abar = sampler.alpha[index].double().square()
    found = ddim_steps(
        sampler.timesteps[index], abar, torch.cat([abar[1:], abar.new_ones(1)]), eta, True
    )
    return found.to(sampler.alpha.device, sampler.alpha.dtype)


_LEVELS = Built[AffineSampler]()


@dataclass(frozen=True)
class Warm(Step):
    """Noise the head's first guess to a level, and denoise it by a step from each level.

    Attributes:
        nodes: the levels, as indices of the head's sampler's steps.
        share: temperature of the noise.
        fresh: DDIM's ``eta``.
    """

    nodes: tuple[int, ...] = setting((16, 26), int, least=0)
    share: float = setting(0.1, least=0, most=1)
    fresh: float = setting(0.0, least=0, most=1)
    needs: ClassVar[frozenset[str]] = frozenset({"head"})
    limits: ClassVar[tuple[str, ...]] = ()
    usual: ClassVar[Stop] = Rounds(1)

    def ready(self, s: System, stop: Stop) -> System:
        """Return the system of the chosen levels; times and condition are encoded ahead."""
        sampler = s.denoise.sampler
        made = _LEVELS(self, sampler, lambda: steps_at(sampler, self.nodes, self.fresh))
        return replace(s, denoise=replace(s.denoise, sampler=made).encode())

    def step(self, s: System, x: Iterate, memory: None) -> tuple[Round, None]:
        """Take all steps. The first iterate holds the guess, clipped."""
        made, noise = s.denoise.sampler, s.noise
        n, guess = made.steps, x.P[-1]
        X = guess.new_zeros(n + 1, *guess.shape)
        P = torch.zeros_like(X[1:])
        X[0] = made.alpha[0] * guess + made.sigma[0] * self.share * noise.initial
        for j, node in enumerate(self.nodes):
            P[j] = s.denoise(X[j : j + 1], slice(j, j + 1))[0]
            X[j + 1] = made.decay[j] * X[j] + made.gain[j] * P[j]
            if made.stochastic and noise.steps is not None:
                X[j + 1] += self.share * made.noise[j] * noise.steps[node]
        x = Iterate(x.k, X, P, torch.zeros_like(X.flatten(2)[..., 0]), cold=False)
        return Round(x, P, X, X, n, n, exact=0, full=False, whole=False, calls=n), None


def warm_solver(policy: DiffusionPolicy, step: Warm) -> Solver:
    """Return a step with the sampler of the policy's head."""
    assert policy.config.head is not None
    return Solver(step, Rounds(1), policy.config.head.sampler)


def searched_levels(
    policy: DiffusionPolicy, obs: Tensor, calls: int, seed: int
) -> list[tuple[Solver, float]]:
    """Search levels for every temperature and ``eta``, for the chunk of the head's sampler.

    Args:
        policy: with a head that has a first guess.
        obs: ``(n, To, Do)`` raw observations; errors should be reported on others.
        calls: network calls.
        seed: of the noise; the number of calls is the seed of the search.

    Returns:
        Solvers and their mean RMSE, the best one first.
    """
    assert policy.config.head is not None
    wanted = policy.config.head.sampler
    exact = solved(policy, Solver.of("sequential", wanted), obs, seed).sample
    found = []
    for share, fresh in product(SHARES, ETAS):
        if fresh and (share == 0 or calls == 1 or not policy.sampler(wanted).stochastic):
            continue  # no noise is drawn after the last step

        def solver(schedule: Schedule, share: float = share, fresh: float = fresh) -> Solver:
            nodes = tuple(wanted.steps - 1 - level for level in schedule)
            return warm_solver(policy, Warm(nodes, share, fresh))

        def cost(schedule: Schedule) -> float:
            off = solved(policy, solver(schedule), obs, seed).sample - exact
            return float(off.square().mean(dim=(1, 2)).sqrt().mean())

        even = tuple(wanted.steps * (calls - j) // (calls + 1) for j in range(calls))
        best, error = search(cost, [even], wanted.steps, calls)
        found.append((solver(best), error))
    return sorted(found, key=lambda one: one[1])
