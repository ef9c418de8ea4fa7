"""Rounds that an iteration takes until its chunk stays close to the sequential one."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pcm_policy.measure.exactness import paired_noise
from pcm_policy.policy.policy import DiffusionPolicy
from pcm_policy.sampling.samplers import SamplerConfig
from pcm_policy.solvers.solve import SolverConfig

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""Passes on the items and shows progress, as a bar does; the second argument names the work."""

COUNTED_ROUNDS = 40
COUNTED_MARGIN = 100.0  # an adaptive solve whose rounds are counted goes on until far below


@torch.inference_mode()
def count_rounds(
    policy: DiffusionPolicy,
    obs: Tensor,
    pairs: Sequence[tuple[SolverConfig, SamplerConfig]],
    error: float,
    seed: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Count the rounds after which the largest action error stays below ``error``."""
    counted = [(s, r) for s, r in pairs if s.tolerance is not None]
    result = []
    for solver, reference in progress(counted, "rounds"):
        sequential = SolverConfig("sequential", reference)
        noise = paired_noise(policy, sequential, len(obs), seed)
        exact = policy.solve(obs, sequential, noise).sample
        errors: list[Tensor] = []

        def watch(states: Tensor, exact: Tensor = exact, errors: list[Tensor] = errors) -> None:
            errors.append((states[-1] - exact).abs().amax(dim=(1, 2)))

        limit = min(COUNTED_ROUNDS, reference.steps)
        until = error / COUNTED_MARGIN if solver.adaptive else None
        policy.solve(obs, replace(solver, rounds=limit, tolerance=until), noise, watch=watch)
        trace = torch.stack(errors).cpu()
        late = trace >= error
        last = torch.where(late, torch.arange(1, len(trace) + 1)[:, None], 0).amax(dim=0)
        needed = (last + 1).double()
        result.append(
            {
                "solver": _counted_name(solver),
                "reference": f"{reference.name}-{reference.steps}",
                "mean_rounds": float(needed.mean()),
                "worst_rounds": int(needed.max()),
                "worst_error_by_round": trace.amax(dim=1).tolist(),
                "mean_error_by_round": trace.mean(dim=1).tolist(),
            }
        )
    return result


def _counted_name(solver: SolverConfig) -> str:
    if solver.method != "pcm":
        return solver.method
    return "pcm adaptive" if solver.adaptive else f"pcm {solver.pcm_rounds} + base"
