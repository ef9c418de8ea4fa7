"""How the comparison times, checks and counts its sides."""

import time
from collections.abc import Sequence

import torch
from compare_floor import operations
from compare_sides import Side, ours
from torch import Tensor

from pcm_policy.deadline import synchronize
from pcm_policy.errors import PcmError
from pcm_policy.policy import DiffusionPolicy
from pcm_policy.solve import SolverConfig

WARMUP = 2


def batches(observations: Tensor, batch: int) -> Tensor:
    """Cut ``(n, To, Do)`` observations into ``(n // B, B, To, Do)``, at most 16 of them."""
    count = min(16, len(observations) // batch)
    if count == 0:
        raise PcmError(f"batch={batch}: the policy has {len(observations)} observations")
    return observations[: count * batch].unflatten(0, (count, batch))


def take_turns(
    sides: Sequence[Side], obs: Tensor, calls: int, seconds: float, least: int
) -> list[list[tuple[float, int, int]]]:
    """Time all sides, one call of each after the other.

    Args:
        sides: what is timed.
        obs: ``(n, B, To, Do)``; call ``k`` of every side takes row ``k % n`` and seed ``k``.
        calls: the most calls a side, the warm-up not counted.
        seconds: no further turn starts after this long.
        least: calls a side has whatever the time.

    Returns:
        For every side its calls' milliseconds, rounds and NFE.
    """
    device = obs.device
    spent: list[list[tuple[float, int, int]]] = [[] for _ in sides]
    end = time.perf_counter() + seconds
    for call in range(-min(WARMUP, least), calls):
        if call >= least and time.perf_counter() > end:
            break
        for found, side in zip(spent, sides, strict=True):
            synchronize(device)
            start = time.perf_counter()
            solved = side.run(obs[call % len(obs)], call % 2**31)
            synchronize(device)
            ms = (time.perf_counter() - start) * 1e3
            if call >= 0:
                found.append((ms if solved.ms is None else solved.ms, solved.rounds, solved.nfe))
    return spent


@torch.inference_mode()
def errors(policy: DiffusionPolicy, side: Side, obs: Tensor) -> dict[str, float]:
    """Return the row's distance to its reference's sequential chunk, in normalised units."""
    exact = ours(policy, SolverConfig("sequential", side.reference))
    off = []
    for seed in range(len(obs)):
        found, target = (s.run(obs[seed], seed).sample.cpu() for s in (side, exact))
        off.append(found - target)
    difference = torch.cat(off)
    return {
        "max_abs_error": float(difference.abs().max()),
        "rmse": float(difference.square().mean().sqrt()),
    }


def counted(side: Side, obs: Tensor) -> tuple[float, int]:
    """Return the operations and NFE of one call."""
    found: list[int] = []
    return operations(lambda: found.append(side.run(obs, 0).nfe)), found[0]
