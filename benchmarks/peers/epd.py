"""EPD-Solver (Zhu et al. 2025, arXiv 2507.14797): parallel gradients at learned points of a step.

A step from level ``t`` to ``t'`` calls the network once at ``t``, moves by that direction alone
to ``K`` learned levels between the two, calls the network there, all points in one batch, and takes
the whole step along a learned convex mean of the ``K`` directions. Learned are also a factor on
that mean and an offset of the time that the network is shown at each point. ``S`` steps take
``2 S`` calls, one after another; with the analytic first step, which takes the noise itself as the
direction at the start, ``2 S - 1``. The levels that steps start from are learned here as well.

The mean is over noise predictions, as in the paper, or over the clean chunks that they mean, which
is the same step for an exponential integrator such as DPM-Solver++. From the noisiest levels of a
policy the former is badly conditioned.

All of it is affine in the clean predictions: states ``X = p x_0 + M D(X)``, with points that are
evaluated together. Shapes: ``n`` evaluated points, ``S`` steps, ``K`` points of a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.peers.built import Built
from pcm_policy.sampling.affine import AffineSampler
from pcm_policy.solvers.settings import setting
from pcm_policy.solvers.step import Step
from pcm_policy.solvers.stops import Rounds, Stop
from pcm_policy.solvers.system import Iterate, Round, System, combine

MOST = 98.0
"""Share of a hundred training times at most: the last one has no signal to speak of."""
OFFSET = 5.0
"""Most that the time which is shown may be off, of a hundred training times."""


@dataclass(frozen=True)
class Plan:
    """The numbers of a solver: ``t`` counts training times and may lie between them.

    Attributes:
        starts: ``(S,)`` where steps start; each ends where the next one starts, the last at no
            noise.
        points: ``(S, K)`` levels that are evaluated together.
        shown: ``(S, K)`` added to these levels for the network.
        weights: ``(S, K)``, each row sums to one.
        scales: ``(S,)`` factors on the mean of a step.
        analytic: whether the first step's direction is the noise itself.
        clean: whether the mean is over clean chunks.
    """

    starts: Tensor
    points: Tensor
    shown: Tensor
    weights: Tensor
    scales: Tensor
    analytic: bool = False
    clean: bool = False

    @property
    def calls(self) -> int:
        """Network calls one after another."""
        return 2 * len(self.starts) - self.analytic


def levels(sampler: AffineSampler, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return signal and noise level at any times: ``log(alpha / sigma)`` is linear in between.

    Args:
        sampler: visits all training times, the noisiest first.
        times: ``(n,)``.
    """
    known = (sampler.alpha / sampler.sigma).log().flip(0)
    low = times.detach().floor().long().clamp(0, len(known) - 2)
    share = times - low
    ratio = (2 * torch.lerp(known[low], known[low + 1], share)).sigmoid()
    return ratio.sqrt(), (1 - ratio).sqrt()


def together(steps: int, points: int, analytic: bool) -> tuple[slice, ...]:
    """Return which of the ``n`` points each call evaluates: a step's start, then its ``K``."""
    sizes = [size for _ in range(steps) for size in (1, points)][int(analytic) :]
    ends = list(accumulate(sizes))
    return tuple(slice(end - size, end) for end, size in zip(ends, sizes, strict=True))


def path(sampler: AffineSampler, plan: Plan) -> AffineSampler:
    """Return the affine form over the ``n`` evaluated points.

    Args:
        sampler: visits all training times, the noisiest first.
        plan: the numbers; the affine form is differentiable in them.
    """
    S, K = plan.points.shape
    n = S * (K + 1) - plan.analytic
    unit = torch.eye(n + 1, dtype=plan.points.dtype)  # the noise, then every prediction
    row, rows = unit[0], list[Tensor]()
    times, alphas, sigmas = list[Tensor](), list[Tensor](), list[Tensor]()
    for s in range(S):
        start, points = plan.starts[s : s + 1], plan.points[s]
        (a, c), (ak, ck) = levels(sampler, start), levels(sampler, points)
        direction = torch.zeros_like(row)
        if s > 0 or not plan.analytic:
            rows.append(row)
            direction = unit[len(rows)]
            times, alphas, sigmas = [*times, start], [*alphas, a], [*sigmas, c]
        moved = (ck / c)[:, None] * row + (ak - a * ck / c)[:, None] * direction
        found = unit[len(rows) + 1 : len(rows) + 1 + K]
        rows += moved.unbind()
        times, alphas, sigmas = [*times, points + plan.shown[s]], [*alphas, ak], [*sigmas, ck]
        b, d = a.new_ones(1), a.new_zeros(1)
        if s + 1 < S:
            b, d = levels(sampler, plan.starts[s + 1 : s + 2])
        weights = (plan.scales[s] * plan.weights[s])[:, None]
        if plan.clean:
            row = d / c * row + (b - a * d / c) * (weights * found).sum(dim=0)
        else:
            gradient = (moved - ak[:, None] * found) / ck[:, None]
            row = b * (row / a + (d / b - c / a) * (weights * gradient).sum(dim=0))
    table = torch.stack([*rows, row])
    shown, alpha, sigma = torch.cat(times), torch.cat(alphas), torch.cat(sigmas)
    ones, zeros = torch.ones_like(alpha), torch.zeros_like(alpha)
    return AffineSampler(
        *(shown, alpha, sigma, ones, zeros, zeros, zeros),
        p=table[:, 0],
        S=torch.zeros_like(table[:, 1:]),
        M=table[:, 1:],
        stochastic=False,
        replaces=True,
        one_step=False,
    )


def solve_groups(s: System, groups: Sequence[slice]) -> tuple[Tensor, Tensor]:
    """Return states ``(n + 1, B, T, Da)`` and predictions, points of a group in one call.

    Nothing is written into tensors, so that a fit can differentiate it.
    """
    P, M = s.F[:0], s.denoise.sampler.M
    for group in groups:
        states = s.F[group] + combine(M[group, : len(P)], P)
        P = torch.cat([P, s.denoise(states, group)])
    return s.sweep(P), P


_PATHS = Built[AffineSampler]()


@dataclass(frozen=True)
class EPD(Step):
    """The solver as a step; its sampler visits all training times, such as ``ddim-100``.

    Attributes:
        starts: as :class:`Plan` has them, and so the others; ``points``, ``shown`` and ``weights``
            step after step.
        analytic: 1 or 0.
        clean: 1 or 0.
    """

    starts: tuple[float, ...] = setting((90.0,), least=0)
    points: tuple[float, ...] = setting((60.0, 30.0), least=0)
    shown: tuple[float, ...] = setting((0.0, 0.0))
    weights: tuple[float, ...] = setting((0.5, 0.5), least=0)
    scales: tuple[float, ...] = setting((1.0,))
    analytic: int = setting(0, int, least=0, most=1)
    clean: int = setting(1, int, least=0, most=1)
    limits: ClassVar[tuple[str, ...]] = ()
    usual: ClassVar[Stop] = Rounds(1)

    @classmethod
    def of(cls, plan: Plan) -> "EPD":
        """Return a plan as settings, its numbers rounded to a ten thousandth."""
        told = {
            name: tuple(round(x, 4) for x in getattr(plan, name).detach().flatten().tolist())
            for name in ("starts", "points", "shown", "weights", "scales")
        }
        return cls(**told, analytic=int(plan.analytic), clean=int(plan.clean))

    @property
    def plan(self) -> Plan:
        """The numbers as tensors, float64."""
        S = len(self.starts)
        wide = (
            torch.tensor(x, dtype=torch.float64).view(S, -1)
            for x in (self.points, self.shown, self.weights)
        )
        narrow = (torch.tensor(x, dtype=torch.float64) for x in (self.starts, self.scales))
        (starts, scales), (points, shown, weights) = narrow, wide
        return Plan(starts, points, shown, weights, scales, bool(self.analytic), bool(self.clean))

    def ready(self, s: System, stop: Stop) -> System:
        """Return the system of the evaluated points; times and condition are encoded ahead."""
        made = _PATHS(self, s.denoise.sampler, lambda: self._path(s.denoise.sampler))
        denoise = replace(s.denoise, sampler=made).encode()
        return replace(s, denoise=denoise, F=made.p.view(-1, 1, 1, 1) * s.F[0])

    def step(self, s: System, x: Iterate, memory: None) -> tuple[Round, None]:
        """Make all calls."""
        steps = len(self.starts)
        groups = together(steps, len(self.points) // steps, bool(self.analytic))
        X, P = solve_groups(s, groups)
        x = Iterate(x.k, X, P, torch.zeros_like(X.flatten(2)[..., 0]), cold=False)
        n, calls = s.steps, len(groups)
        made = Round(x, P, X, X, n, n, exact=0, full=False, whole=False, calls=calls)
        return made, None

    def _path(self, sampler: AffineSampler) -> AffineSampler:
        found = path(sampler.to("cpu", torch.float64), self.plan)
        made = found.to(sampler.alpha.device, sampler.alpha.dtype)
        return replace(made, timesteps=found.timesteps.to(made.alpha))
