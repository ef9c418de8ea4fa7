"""DPM-Solver++ as an affine map: steps that also use the predictions of earlier steps.

Lu et al. 2022 (DPM-Solver++), algorithm 2 and its third-order form, in terms of the clean-chunk
prediction and ``lambda = log(alpha / sigma)``. Timesteps and the orders of the last steps are those
of diffusers, so that policies sampled there are reproduced.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcm_policy.errors import PcmError
from pcm_policy.sampling.schedules import Spacing, timesteps

FEW = 15
"""With fewer steps than this the last ones have a lower order, which is more stable."""


def solver_timesteps(train_steps: int, steps: int, spacing: Spacing, offset: int = 0) -> Tensor:
    """Return descending timesteps; unlike DDIM's, ``linspace`` and ``leading`` divide by ``N + 1``.

    Raises:
        PcmError: more steps than were trained, none at all, or an offset past the table.
    """
    plain = timesteps(train_steps, steps, "trailing")  # checks steps
    if spacing == "trailing":
        return plain
    grid: NDArray[Any]
    if spacing == "linspace":
        grid = np.linspace(0, train_steps - 1, steps + 1).round()[::-1][:-1]
    else:
        grid = (np.arange(steps + 1) * (train_steps // (steps + 1)))[::-1][:-1] + offset
    result = torch.from_numpy(grid.astype(np.int64).copy())
    if offset < 0 or int(result.max()) >= train_steps or len(set(result.tolist())) < steps:
        raise PcmError(
            f"{steps} {spacing} steps with offset={offset} do not fit {train_steps} training steps "
            "of DPM-Solver++: use fewer steps or spacing=trailing"
        )
    return result


def dpm_coefficients(alpha: Tensor, sigma: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """Return ``decay (N,)`` and ``gains (N, order)`` of the multistep solver, ending at no noise.

    Args:
        alpha: ``(N,)`` signal levels visited, float64; the first may be zero.
        sigma: ``(N,)`` noise levels visited, float64.
        order: 2 (midpoint) or 3.
    """
    steps = alpha.shape[0]
    alpha, sigma = torch.cat([alpha, alpha.new_ones(1)]), torch.cat([sigma, sigma.new_zeros(1)])
    level = [*(alpha[:-1] / sigma[:-1]).log().tolist(), float("inf")]
    decay, gains = sigma[1:] / sigma[:-1], alpha.new_zeros(steps, order)
    for j in range(steps):
        h = level[j + 1] - level[j]
        # -alpha (exp(-h) - 1), the weight of a first-order step
        weight = float(alpha[j + 1]) * -np.expm1(-h)
        gains[j, 0] = weight
        use = min(order, j + 1)
        if j == steps - 1:
            use = 1
        elif j == steps - 2 and steps < FEW:
            use = min(use, 2)
        if use == 1:
            continue
        r0 = (level[j] - level[j - 1]) / h
        if use == 2:
            gains[j, 0] += 0.5 * weight / r0
            gains[j, 1] -= 0.5 * weight / r0
            continue
        r1 = (level[j - 1] - level[j - 2]) / h
        # first and second differences of the predictions, as weights of xhat_j, _{j-1}, _{j-2}
        near = np.array([1.0, -1.0, 0.0]) / r0
        far = np.array([0.0, 1.0, -1.0]) / r1
        first = near + r0 / (r0 + r1) * (near - far)
        second = (near - far) / (r0 + r1)
        a = float(alpha[j + 1])
        slope = a * (np.expm1(-h) / h + 1.0)
        bend = a * ((np.expm1(-h) + h) / h**2 - 0.5)
        gains[j] += torch.from_numpy(slope * first - bend * second)
    return decay, gains
