"""Fitting the few numbers of an EPD-Solver to a sampler's chunks, the network left as it is."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.peers.epd import EPD, MOST, OFFSET, Plan, path, solve_groups, together
from pcm_policy.measure.exactness import paired_noise, solved
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.registry import Solver
from pcm_policy.solvers.stops import Rounds
from pcm_policy.solvers.system import System

ROWS, RATE, FLOOR = 32, 0.1, 0.003
"""Observations of a step, Adam's rate, what smooths the square root; as a head's training has."""
SCALE = 0.1
"""Most that the factor on a step's mean is off one."""

Raw = Mapping[str, Tensor]
"""Unbounded numbers, from which :func:`plan_of` makes a plan."""


def first_raw(steps: int, points: int) -> dict[str, Tensor]:
    """Return where a fit begins: levels evenly spread, equal weights."""
    places = torch.linspace(1.5, -1.5, points).expand(steps, points)
    return {
        "start": torch.tensor([2.0] + [0.6] * (steps - 1)),
        "point": places.clone(),
        "shown": torch.zeros(steps, points),
        "weight": torch.zeros(steps, points),
        "scale": torch.zeros(steps),
    }


def plan_of(raw: Raw, train_steps: int, *, analytic: bool, clean: bool) -> Plan:
    """Return the plan that unbounded numbers mean.

    Every start is a share of the one before, every point lies between two starts.

    Args:
        raw: as :func:`first_raw` returns them.
        train_steps: training times of the schedule.
        analytic: of the plan.
        clean: likewise.
    """
    unit = train_steps / 100
    starts = MOST * unit * raw["start"].sigmoid().cumprod(dim=0)
    ends = torch.cat([starts[1:], starts.new_zeros(1)])
    points = torch.lerp(ends[:, None], starts[:, None], raw["point"].sigmoid())
    return Plan(
        starts,
        points,
        OFFSET * unit * raw["shown"].tanh(),
        raw["weight"].softmax(dim=1),
        1 + SCALE * raw["scale"].tanh(),
        analytic,
        clean,
    )


def own_sampler(policy: DiffusionPolicy, temperature: float) -> SamplerConfig:
    """Return the sampler that visits all training times, for EPD-Solver to jump along."""
    return SamplerConfig("ddim", policy.config.schedule.train_steps, temperature=temperature)


def fitted(
    policy: DiffusionPolicy,
    wanted: SamplerConfig,
    obs: Tensor,
    calls: int,
    points: int,
    *,
    clean: bool,
    steps: int,
    seed: int,
) -> tuple[Solver, float]:
    """Fit an EPD-Solver to a sampler's chunks by Adam, through the network.

    Args:
        policy: the policy.
        wanted: whose chunks; its temperature is the solver's.
        obs: ``(n, To, Do)`` raw observations; errors should be reported on others.
        calls: network calls one after another; an odd number takes the analytic first step.
        points: ``K``.
        clean: whether the mean is over clean chunks.
        steps: of the fit; 0 gives what it begins with.
        seed: of the noise, and of the batches.

    Returns:
        The solver, and the mean RMSE on ``obs``.
    """
    sampler, analytic = own_sampler(policy, wanted.temperature), calls % 2 == 1
    exact = solved(policy, Solver.of("sequential", wanted), obs, seed).sample.clone()
    start = paired_noise(policy, Solver.of("sequential", sampler), len(obs), seed).initial
    start = wanted.temperature * start.to(policy.device, policy.dtype)
    with torch.no_grad():
        cond = policy.condition(obs.to(policy.device, policy.dtype))
    raw = {k: v.requires_grad_() for k, v in first_raw((calls + 1) // 2, points).items()}
    train_steps = policy.config.schedule.train_steps
    optimizer = torch.optim.Adam(raw.values(), RATE)
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in policy.network.parameters() if p.requires_grad]
    policy.network.requires_grad_(False)
    for i in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * i / steps))
        rows = torch.randperm(len(obs), generator=generator)[:ROWS]
        plan = plan_of(raw, train_steps, analytic=analytic, clean=clean)
        found = chunks(policy, plan, cond[rows], start[rows], sampler)
        error = (found - exact[rows]).square().mean(dim=(1, 2))
        loss = (error + FLOOR**2).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for parameter in trained:
        parameter.requires_grad_(True)
    step = EPD.of(plan_of(raw, train_steps, analytic=analytic, clean=clean))
    solver = Solver(step, Rounds(1), sampler)
    off = solved(policy, solver, obs, seed).sample - exact
    return solver, float(off.square().mean(dim=(1, 2)).sqrt().mean())


def chunks(
    policy: DiffusionPolicy, plan: Plan, cond: Tensor, start: Tensor, sampler: SamplerConfig
) -> Tensor:
    """Return ``(B, T, Da)`` chunks of a plan, differentiable in its numbers.

    Args:
        policy: the policy.
        plan: the numbers.
        cond: ``(B, C)``.
        start: ``(B, T, Da)``, what sampling starts from.
        sampler: visits all training times.
    """
    made = path(policy.sampler(sampler), plan)
    groups = together(*plan.points.shape, plan.analytic)
    denoise = replace(policy.denoiser(cond, sampler), sampler=made)
    forced = made.p.view(-1, 1, 1, 1) * start
    return solve_groups(System(denoise, None, forced), groups)[0][-1]  # type: ignore[arg-type]
