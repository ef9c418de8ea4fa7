"""Timesteps of least cost: a search over descending schedules.

A few-step sampler at well chosen timesteps is far ahead of the same one at an even spacing.
"""

from collections.abc import Callable, Sequence

import numpy as np

DRAWN, MOVES, SWEEPS = 32, (-16, -8, -4, -2, -1, 1, 2, 4, 8, 16), 3
Schedule = tuple[int, ...]


def search(
    cost: Callable[[Schedule], float], start: Sequence[Schedule], train_steps: int, seed: int
) -> tuple[Schedule, float]:
    """Look for the timesteps of least cost: random draws, then one timestep at a time.

    Args:
        cost: what a descending schedule costs.
        start: schedules to begin with, all of one length.
        train_steps: timesteps are below this.
        seed: of the draws.

    Returns:
        The best schedule found and its cost.
    """
    rng, steps = np.random.default_rng(seed), len(start[0])
    drawn = [
        tuple(sorted(rng.choice(train_steps, steps, replace=False).tolist(), reverse=True))
        for _ in range(DRAWN)
    ]
    known = {schedule: cost(schedule) for schedule in [*start, *drawn]}
    best = min(known, key=lambda s: known[s])
    for _ in range(SWEEPS):
        before = best
        for i in range(steps):
            for move in MOVES:
                moved = {*best[:i], *best[i + 1 :], best[i] + move}
                tried = tuple(sorted(moved, reverse=True))
                if len(tried) < steps or tried[0] >= train_steps or tried[-1] < 0:
                    continue
                if tried not in known:
                    known[tried] = cost(tried)
            best = min(known, key=lambda s: known[s])
        if best == before:
            break
    return best, known[best]
