"""A flow's steps by Adams and Bashforth, which can follow the fine Euler loop of a policy.

Along a chunk's path the velocity ``v = (x - xhat) / s`` changes slowly. A step of an
Adams-Bashforth method (Hairer, Norsett and Wanner 1993, III.1) takes it as the polynomial in ``s``
through the last few values, and integrates that. An Euler loop of a hundred steps is itself some
way from the integral, so a method of few steps comes no nearer to the loop's chunk than that. The
polynomial may therefore be summed over the loop's own levels in place of being integrated. What is
left is the polynomial's own error, and a tenth of the calls gives the loop's chunk.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import SamplerConfig, sampler
from pcm_policy.sampling.schedules import NoiseSchedule, flow_levels

ORDER = 4
"""Velocities that a step uses, as soon as there are as many."""
ENDS = 0.5
"""How much closer steps lie at both ends of the path, where velocities turn most: 0 is evenly."""
FINE = 10_000
"""Levels among which steps begin that follow no loop."""
Span = tuple[Tensor, Tensor]
"""Where a step takes the polynomial, and with which weights."""


@sampler("flow_adams", flow=True)
def flow_adams(schedule: NoiseSchedule, config: SamplerConfig) -> AffineSampler:
    """Fill the affine form of Adams-Bashforth steps.

    With ``follows=N`` they begin at levels of a loop of ``N`` Euler steps and sum over those
    between; with ``follows=0`` they integrate.

    Raises:
        PcmError: fewer steps to follow than steps.
    """
    count = config.follows or max(FINE, config.steps)
    if count < config.steps:
        raise PcmError(
            f"sampler follows={count} with steps={config.steps}: flow_adams has at most as many "
            "steps as the Euler loop that it follows (the policy's own unless said); follows=0 is "
            "for any number"
        )
    fine = flow_levels(schedule.train_steps, count, config.spacing, config.shift)
    at = begins(config.steps, count)
    ends = torch.cat([at[1:], at.new_tensor([count])])
    level = torch.cat([fine, fine.new_zeros(1)])
    spans = [
        looped(level[begin : end + 1]) if config.follows else integrated(level[begin], level[end])
        for begin, end in zip(at.tolist(), ends.tolist(), strict=True)
    ]
    return multistep(schedule, fine[at], spans)


def begins(steps: int, count: int) -> Tensor:
    """Return at which of ``count`` levels steps begin, ``(steps,)`` ascending from 0."""
    even = torch.arange(steps, dtype=torch.float64) / steps
    part = (1.0 - ENDS) * even + ENDS * (0.5 - 0.5 * torch.cos(torch.pi * even))
    first = torch.arange(steps)
    at = torch.maximum((part * count).round().long(), first)  # each at a level of its own
    return at.minimum(count - steps + first)


def looped(levels: Tensor) -> Span:
    """Return the levels of Euler steps and how far each goes; the last level is where they end."""
    return levels[:-1], levels[1:] - levels[:-1]


def integrated(begin: Tensor, end: Tensor) -> Span:
    """Return points and weights of Gauss and Legendre, exact for the polynomials used here."""
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(ORDER))
    half = (end - begin) / 2
    return begin + half * (points + 1.0), half * weights


def multistep(schedule: NoiseSchedule, levels: Tensor, spans: list[Span]) -> AffineSampler:
    """Fill the affine form of ``x_{j+1} = x_j + sum_k weight_k v(point_k)``.

    ``v`` is the polynomial through ``v_i = (x_i - xhat_i) / s_i`` of the last steps.

    Args:
        schedule: of the policy.
        levels: ``(N,)`` ``s`` where steps begin, float64.
        spans: a step's points and weights.
    """
    zeros = torch.zeros_like(levels)
    seen = (levels * schedule.train_steps).float()
    plain = unroll(seen, 1.0 - levels, levels, zeros, zeros, zeros, torch.ones_like(levels))
    p, M, own = (
        torch.ones_like(plain.p),
        torch.zeros_like(plain.M),
        torch.eye(len(levels)).to(zeros),
    )
    for j, (points, weights) in enumerate(spans):
        p[j + 1], M[j + 1] = p[j], M[j]
        used = range(max(0, j + 1 - ORDER), j + 1)
        for i in used:
            basis = torch.ones_like(points)  # Lagrange's
            for k in (k for k in used if k != i):
                basis = basis * (points - levels[k]) / (levels[i] - levels[k])
            share = (weights @ basis) / levels[i]
            p[j + 1] += share * p[i]
            M[j + 1] += share * (M[i] - own[i])
    return replace(plain, p=p, M=M, one_step=False)
