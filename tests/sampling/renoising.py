"""A sampler of one's own for flows, which replaces a share ``r^2`` of the noise in every step.

With ``eps = (x_j - (1 - s) xhat) / s`` a step is
``x_{j+1} = (1 - s') xhat + s' (sqrt(1 - r^2) eps + r z)``. ``plugins=[tests.sampling.renoising]``
gives it its name.
"""

import torch

from pcm_policy.sampling.affine import AffineSampler, unroll
from pcm_policy.sampling.config import sampler
from pcm_policy.sampling.schedules import flow_levels


def renoising_flow(levels: list[float], r: float, train_steps: int) -> AffineSampler:
    s = torch.tensor(levels, dtype=torch.float64)
    after = torch.cat([s[1:], s.new_zeros(1)])
    decay = (1 - r**2) ** 0.5 * after / s
    return unroll(
        (s * train_steps).float(),  # what the network is shown
        alpha=1 - s,
        sigma=s,
        decay=decay,  # of x_j
        gain=(1 - after) - decay * (1 - s),  # of xhat_j
        noise=r * after,  # of z_j
        clip_gain=torch.ones_like(s),  # noise re-derived from the clipped chunk
    )


@sampler("renoising", flow=True)
def renoising(schedule, config):
    levels = flow_levels(schedule.train_steps, config.steps, config.spacing, config.shift)
    return renoising_flow(levels.tolist(), 0.4, schedule.train_steps)
